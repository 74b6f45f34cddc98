"""Entry point of stage `report` for `ray job submit`.

ray job submit --working-dir . -- python jobs/report.py PRESET_OR_YAML [SECTION.FIELD=VALUE]...
"""

import sys

from sio_ray.cli import main

if __name__ == "__main__":
    main(["report", *sys.argv[1:]])
