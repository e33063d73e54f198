"""What Kahuna may ask a Kaktus about images: declarations only.

Effectful ones are fenced by what the image belongs to: "template/ID", "volume/ID", "instance/ID".
"""

from typing import Final

import msgspec

from appliance.model.fields import ObjectId
from appliance.model.storage import (
    ObservedImage,
    PoolStatistics,
    SeedSpec,
    StoragePoolRef,
    TemplateSource,
    UnfinishedFile,
    VolumeSpec,
)
from appliance.rpc.method import AnyMethod, Method, Nothing, TimeoutClass


class StoragePoolParams(msgspec.Struct, frozen=True):
    storage_pool: StoragePoolRef


class ImageRef(msgspec.Struct, frozen=True):
    storage_pool: StoragePoolRef
    image_id: ObjectId


class TemplateImport(msgspec.Struct, frozen=True):
    storage_pool: StoragePoolRef
    source: TemplateSource


class ImageEnsure(msgspec.Struct, frozen=True):
    storage_pool: StoragePoolRef
    spec: VolumeSpec


class SeedEnsure(msgspec.Struct, frozen=True):
    storage_pool: StoragePoolRef
    seed: SeedSpec


class ImageListParams(msgspec.Struct, frozen=True):
    """Ask for the next images after an id; the first ones without."""

    storage_pool: StoragePoolRef
    after: ObjectId | None = None


class ImageList(msgspec.Struct, frozen=True):
    """Images by id; `more`: ask again, after the last one."""

    images: tuple[ObservedImage, ...]
    more: bool


class UnfinishedList(msgspec.Struct, frozen=True):
    files: tuple[UnfinishedFile, ...]


STORAGE_IMPORT_TEMPLATE: Final = Method(
    "storage.import_template", TemplateImport, ObservedImage, TimeoutClass.DOWNLOAD,
    effectful=True, answered_by="agent",
    about="Download a template into a storage pool; a repeat resumes.", gives_way=True,
)  # fmt: skip
STORAGE_ENSURE_IMAGE: Final = Method(
    "storage.ensure_image", ImageEnsure, ObservedImage, TimeoutClass.NORMAL, effectful=True,
    answered_by="agent", about="Create a volume, empty or cloned, or grow it; never shrink.",
)  # fmt: skip
STORAGE_ENSURE_SEED: Final = Method(
    "storage.ensure_seed", SeedEnsure, ObservedImage, TimeoutClass.NORMAL, effectful=True,
    answered_by="agent", about="Build an instance's cloud-init medium, anew if it differs.",
)  # fmt: skip
STORAGE_ENSURE_IMAGE_ABSENT: Final = Method(
    "storage.ensure_image_absent", ImageRef, Nothing, TimeoutClass.SLOW, effectful=True,
    answered_by="agent", about="Delete an image of any purpose.",
)  # fmt: skip
STORAGE_GET_IMAGE: Final = Method(
    "storage.get_image", ImageRef, ObservedImage, TimeoutClass.FAST, effectful=False,
    answered_by="agent", about="Size, parent and purpose of one image.",
)  # fmt: skip
STORAGE_LIST_IMAGES: Final = Method(
    "storage.list_images", ImageListParams, ImageList, TimeoutClass.FAST, effectful=False,
    answered_by="agent", about="Images of ours in a storage pool, a page at a time.",
)  # fmt: skip
STORAGE_GET_POOL_STATISTICS: Final = Method(
    "storage.get_pool_statistics", StoragePoolParams, PoolStatistics, TimeoutClass.FAST,
    effectful=False, answered_by="agent", about="Capacity and use of a storage pool.",
)  # fmt: skip
STORAGE_LIST_UNFINISHED: Final = Method(
    "storage.list_unfinished", StoragePoolParams, UnfinishedList, TimeoutClass.FAST,
    effectful=False, answered_by="agent",
    about="What work on images has not finished in a storage pool, or has left there.",
)  # fmt: skip

STORAGE_METHODS: Final[tuple[AnyMethod, ...]] = (
    STORAGE_IMPORT_TEMPLATE, STORAGE_ENSURE_IMAGE, STORAGE_ENSURE_SEED,
    STORAGE_ENSURE_IMAGE_ABSENT, STORAGE_GET_IMAGE, STORAGE_LIST_IMAGES,
    STORAGE_GET_POOL_STATISTICS, STORAGE_LIST_UNFINISHED,
)  # fmt: skip
