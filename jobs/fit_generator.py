"""Entry point of stage `fit-generator` for `ray job submit`.

ray job submit --working-dir . -- python jobs/fit_generator.py PRESET_OR_YAML [SECTION.FIELD=VALUE]...
"""

import sys

from sio_ray.cli import main

if __name__ == "__main__":
    main(["fit-generator", *sys.argv[1:]])
