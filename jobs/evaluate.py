"""Entry point of stage `evaluate` for `ray job submit`.

ray job submit --working-dir . -- python jobs/evaluate.py PRESET_OR_YAML [SECTION.FIELD=VALUE]...
"""

import sys

from sio_ray.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
