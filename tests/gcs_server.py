"""Google's object store on this machine: the emulator, with what it lacks of generations.

Google sends the generation of whatever it is asked for, and writes or removes an object only while the generation that
the caller names is still there. TensorStore adds to a checkpoint that way. The emulator does neither: a checkpoint that
is written by two threads at a time then fails now and then ("Malformed StorageGeneration").
"""

import sys
from http import HTTPStatus

from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects


def _generation(request, storage) -> str:
    """Of the object that a request is about; "0" where there is none."""
    name = request.params.get("object_id") or request.query.get("name", [None])[0]
    if name is None:
        name = (request.data.get("meta") or request.data)["name"]
    try:
        return storage.get_file_obj(request.params["bucket_name"], name)["generation"]
    except NotFound:
        return "0"


def _on_condition(handle):
    """The same handler; it leaves the object alone when that is not the one that the caller means."""

    def handler(request, response, storage, *args, **kwargs):
        generation = _generation(request, storage)
        if request.query.get("ifGenerationMatch", [generation])[0] != generation:
            response.status = HTTPStatus.PRECONDITION_FAILED
        elif request.query.get("ifGenerationNotMatch", [None])[0] == generation:
            response.status = HTTPStatus.NOT_MODIFIED
        else:
            handle(request, response, storage, *args, **kwargs)
            if handle is _download:
                response["x-goog-generation"] = generation

    return handler


_download = objects.download
for _name in ("download", "insert", "delete"):
    setattr(objects, _name, _on_condition(getattr(objects, _name)))

from gcp_storage_emulator.__main__ import main  # noqa: E402 (it takes the handlers as they are when it is imported)

if __name__ == "__main__":
    sys.exit(main())
