"""What shards, notes and their end cost a bucket in requests, on which docs/scaling.md counts."""

from __future__ import annotations

from collections import Counter

from benchmark_module import load_benchmark

from sio_ray.generate.notes import DrawnShard, delete_notes, survey, write_note
from sio_ray.generate.plan import Plan
from sio_ray.imageset import ShardEntry
from sio_ray.imageset.storage import Folder

PLAN = Plan(num_images=24, class_weights=(1,), images_per_shard=2, sampler_batch_size=2, base_seed=0)


def test_requests_of_a_bucket(store):
    folder = Folder(store.uri("me:secret@sets/set") + "&region=us-east-1")
    folder.list()  # the client's own first words

    def requests(work):
        before = len(store.seen)
        work()
        return Counter(request.method for request, _ in store.seen[before:])

    def write(shard_id, num_bytes):
        entry = ShardEntry.of(PLAN.shard_name(shard_id), 2, bytes(num_bytes))
        folder.write_bytes(entry.name, bytes(num_bytes))
        write_note(folder, DrawnShard(shard_id=shard_id, entry=entry))

    scaling = load_benchmark("scaling")
    for num_bytes in (10, 10 * 2**20, 25_000_000):
        assert requests(lambda num_bytes=num_bytes: write(0, num_bytes)).total() == scaling.writes_per_shard(num_bytes)
    for shard_id in range(1, PLAN.num_shards):
        write(shard_id, 10)

    # A HEAD and a GET for each note, and two lists.
    assert requests(lambda: survey(folder, PLAN)) == {"HEAD": PLAN.num_shards, "GET": PLAN.num_shards + 2}
    assert requests(lambda: delete_notes(folder)).total() < PLAN.num_shards, "notes are deleted one by one"
    assert set(folder.files(below=True)) == {PLAN.shard_name(k) for k in range(PLAN.num_shards)}
