"""Results that are never lost: one file to keep them, suites that resume, executors that share the work."""

from ascertain.runs.devices import cuda_devices, device_workers
from ascertain.runs.division import Whole, combine
from ascertain.runs.executors import Workers, dask_workers, local_workers, this_process
from ascertain.runs.export import export
from ascertain.runs.items import Item, run_item
from ascertain.runs.planning import read_suite
from ascertain.runs.store import Store
from ascertain.runs.suite import Summary, run_suite

__all__ = [
    "Item",
    "Store",
    "Summary",
    "Whole",
    "Workers",
    "combine",
    "cuda_devices",
    "dask_workers",
    "device_workers",
    "export",
    "local_workers",
    "read_suite",
    "run_item",
    "run_suite",
    "this_process",
]
