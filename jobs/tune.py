"""Entry point of stage `tune` for `ray job submit`.

ray job submit --working-dir . -- python jobs/tune.py PRESET_OR_YAML [SECTION.FIELD=VALUE]...
"""

import sys

from sio_ray.cli import main

if __name__ == "__main__":
    main(["tune", *sys.argv[1:]])
