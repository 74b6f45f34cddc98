"""Entry point of all stages for `ray job submit`.

ray job submit --working-dir . -- python jobs/run.py PRESET_OR_YAML [SECTION.FIELD=VALUE]...
"""

import sys

from sio_ray.cli import main

if __name__ == "__main__":
    main(["run", *sys.argv[1:]])
