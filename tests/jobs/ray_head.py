"""A Ray cluster of one node with a dashboard, in a process of its own: runs until its standard input ends.

Arguments: the dashboard's port, and the folder of Ray's own files. Prints the dashboard's address once it is up.
"""

import sys

import ray

port, folder = sys.argv[1:]
context = ray.init(
    address="local",
    num_cpus=2,
    include_dashboard=True,
    dashboard_host="127.0.0.1",
    dashboard_port=int(port),
    log_to_driver=False,
    _temp_dir=folder,
)
print(f"http://{context.dashboard_url}", flush=True)
sys.stdin.read()
