"""Entry point of stage `prepare` for `ray job submit`.

ray job submit --working-dir . -- python jobs/prepare.py PRESET_OR_YAML [SECTION.FIELD=VALUE]...
"""

import sys

from sio_ray.cli import main

if __name__ == "__main__":
    main(["prepare", *sys.argv[1:]])
