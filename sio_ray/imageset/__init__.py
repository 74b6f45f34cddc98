"""Image sets: folders of Parquet shards with one schema, and a manifest that commits them."""

from sio_ray.imageset.manifest import Manifest, ShardEntry
from sio_ray.imageset.reader import ImageArrays, ImageSet
from sio_ray.imageset.schema import ImageSetInfo
from sio_ray.imageset.writer import write_image_set

__all__ = ["ImageArrays", "ImageSet", "ImageSetInfo", "Manifest", "ShardEntry", "write_image_set"]
