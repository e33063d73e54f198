"""Serve the storage methods with a driver. Decodes nothing and decides nothing."""

from appliance.agent.compute import EventSender
from appliance.agent.dispatch import Handler
from appliance.model.storage import (
    IMAGES_PER_LIST,
    ImportProgress,
    ObservedImage,
    PoolStatistics,
    StorageDriver,
)
from appliance.model.target import target
from appliance.rpc.method import Nothing
from appliance.rpc.methods import Event
from appliance.rpc.storage import (
    STORAGE_ENSURE_IMAGE,
    STORAGE_ENSURE_IMAGE_ABSENT,
    STORAGE_ENSURE_SEED,
    STORAGE_GET_IMAGE,
    STORAGE_GET_POOL_STATISTICS,
    STORAGE_IMPORT_TEMPLATE,
    STORAGE_LIST_IMAGES,
    STORAGE_LIST_UNFINISHED,
    ImageEnsure,
    ImageList,
    ImageListParams,
    ImageRef,
    SeedEnsure,
    StoragePoolParams,
    TemplateImport,
    UnfinishedList,
)


def storage_handlers(driver: StorageDriver, send_event: EventSender) -> dict[str, Handler]:
    """Return the handlers by method name; progress of imports goes to `send_event`."""

    def on_progress(progress: ImportProgress) -> None:
        detail: dict[str, str | int] = {"done_bytes": progress.done_bytes}
        if progress.total_bytes is not None:
            detail["total_bytes"] = progress.total_bytes
        send_event(Event(target("template", progress.template_id), "template.progress", detail))

    async def import_template(params: TemplateImport) -> ObservedImage:
        return await driver.import_template(params.storage_pool, params.source, on_progress)

    async def ensure_image(params: ImageEnsure) -> ObservedImage:
        return await driver.ensure_image(params.storage_pool, params.spec)

    async def ensure_seed(params: SeedEnsure) -> ObservedImage:
        return await driver.ensure_seed(params.storage_pool, params.seed)

    async def ensure_image_absent(params: ImageRef) -> Nothing:
        await driver.ensure_image_absent(params.storage_pool, params.image_id)
        return Nothing()

    async def get_image(params: ImageRef) -> ObservedImage:
        return await driver.get_image(params.storage_pool, params.image_id)

    async def list_images(params: ImageListParams) -> ImageList:
        images = await driver.list_images(
            params.storage_pool, after=params.after or "", limit=IMAGES_PER_LIST
        )
        return ImageList(tuple(images), more=len(images) == IMAGES_PER_LIST)

    async def get_pool_statistics(params: StoragePoolParams) -> PoolStatistics:
        return await driver.get_pool_statistics(params.storage_pool)

    async def list_unfinished(params: StoragePoolParams) -> UnfinishedList:
        return UnfinishedList(tuple(await driver.list_unfinished(params.storage_pool)))

    return {
        STORAGE_IMPORT_TEMPLATE.name: import_template,
        STORAGE_ENSURE_IMAGE.name: ensure_image,
        STORAGE_ENSURE_SEED.name: ensure_seed,
        STORAGE_ENSURE_IMAGE_ABSENT.name: ensure_image_absent,
        STORAGE_GET_IMAGE.name: get_image,
        STORAGE_LIST_IMAGES.name: list_images,
        STORAGE_GET_POOL_STATISTICS.name: get_pool_statistics,
        STORAGE_LIST_UNFINISHED.name: list_unfinished,
    }
