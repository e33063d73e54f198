"""Where processes die (`mortal_role`), in the order in which an operation comes there.

That a fence was admitted and that the driver is about to be called are one moment.
"""

from typing import Final

CREATE_CALLS: Final = (
    "fence volume before",
    "storage.ensure_image before",
    "storage.ensure_image after",
    "storage.ensure_seed before",
    "storage.ensure_seed after",
    "network.ensure_bridge before",
    "network.ensure_bridge after",
    "compute.ensure_domain before",
    "compute.ensure_domain after",
    "compute.ensure_power before",
    "compute.ensure_power after",
)
RESIZE_CALLS: Final = (
    "fence instance before",
    "compute.grow_disk before",
    "compute.grow_disk after",
    "storage.ensure_seed before",
    "storage.ensure_seed after",
    "network.ensure_bridge before",
    "network.ensure_bridge after",
    "compute.ensure_domain before",
    "compute.ensure_domain after",
    "compute.ensure_power before",
    "compute.ensure_power after",
)
DELETE_CALLS: Final = (
    "fence instance before",
    "compute.ensure_domain_absent before",
    "compute.ensure_domain_absent after",
    "storage.ensure_image_absent before",
    "storage.ensure_image_absent after",
    "fence volume before",
    "fence volume after",
)
CREATE_COMMITS: Final = (
    "submit kompute_create after",
    "kompute_create step disks before",
    "kompute_create step disks after",
    "kompute_create step seed before",
    "kompute_create step seed after",
    "kompute_create step domain before",
    "kompute_create step domain after",
    "kompute_create finish before",
    "kompute_create finish after",
)
RESIZE_COMMITS: Final = tuple(point.replace("create", "update") for point in CREATE_COMMITS)
DELETE_COMMITS: Final = (
    "submit kompute_delete after",
    "kompute_delete step domain before",
    "kompute_delete step domain after",
    "kompute_delete step seed before",
    "kompute_delete step seed after",
    "kompute_delete finish before",
    "kompute_delete finish after",
)
