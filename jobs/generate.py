"""Entry point of stage `generate` for `ray job submit`.

ray job submit --working-dir . -- python jobs/generate.py PRESET_OR_YAML [SECTION.FIELD=VALUE]...
"""

import sys

from sio_ray.cli import main

if __name__ == "__main__":
    main(["generate", *sys.argv[1:]])
