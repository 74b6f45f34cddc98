"""Entry point of stage `train` for `ray job submit`.

ray job submit --working-dir . -- python jobs/train.py PRESET_OR_YAML [SECTION.FIELD=VALUE]...
"""

import sys

from sio_ray.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
