"""Serves models over HTTP, as an OpenAI-compatible server: other people's tools talk to them as to any other.

Endpoints: /v1/chat/completions (texts and images, streams, log-probabilities, several choices), /v1/completions,
/v1/models, /health and /metrics (Prometheus). Requests join and leave the running batch between two tokens. A greedy
answer is that of bin/generate, whatever else is in the batch.

Several models are served at once, each by its name: --checkpoint may be given again, and each --guard adds its model
with the guard, as NAME+GUARD. Each --adapter adds the model with a LoRA adapter merged in. The server listens on this
machine alone unless --host says otherwise.

Needs the extra `serve`: pip install vlm_mu_jax[serve].

Example:
  bin/serve --checkpoint=base=runs/base --checkpoint=runs/npo --guard=base=runs/guard
  bin/serve --checkpoint=base=runs/base --adapter=npo=runs/npo_lora/adapter
  curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{"model": "npo", "messages": [{"role": "user", "content": "What is a ring?"}]}'
"""

from absl import flags

from vlm_mu_jax.cli import command, mesh_flag, named_paths

_NEW_TOKENS = 1024  # that an answer is taken to have where --context does not say it

_CHECKPOINT = flags.DEFINE_multi_string(
    "checkpoint", None, "model folder, or NAME=FOLDER; may be given several times", required=True
)
_GUARD = flags.DEFINE_multi_string("guard", [], "guard folder, or MODEL=FOLDER; may be given several times")
_ADAPTER = flags.DEFINE_multi_string(
    "adapter",
    [],
    "PEFT LoRA adapter, or NAME=FOLDER: a further model; MODEL+NAME=FOLDER where there are several models",
)
_OTHER = flags.DEFINE_bool("allow_other_model", False, "accept a guard of other weights or another template")
_HOST = flags.DEFINE_string("host", "127.0.0.1", "address to listen on; 0.0.0.0 for the whole network")
_PORT = flags.DEFINE_integer("port", 8000, "port to listen on; 0 takes a free one", lower_bound=0, upper_bound=65535)
_KEYS = flags.DEFINE_string("api_key_file", None, "file with one API key a line, of which requests must bring one")
_ROWS = flags.DEFINE_integer("rows", 16, "answers that a model makes at a time", lower_bound=1)
_WAITING = flags.DEFINE_integer("waiting", 256, "answers that may wait; more are refused with 429", lower_bound=1)
_CONTEXT = flags.DEFINE_integer(
    "context", None, "most tokens of prompt and answer together (default: the model's positions)", lower_bound=16
)
_BODY = flags.DEFINE_integer("max_request_mb", 32, "largest request, in megabytes", lower_bound=1)
_OPEN = flags.DEFINE_integer("max_open_requests", 512, "requests at a time; more are refused with 429", lower_bound=1)
_IMAGES = flags.DEFINE_integer("max_images", 8, "images of one request", lower_bound=0)
_PIXELS = flags.DEFINE_float("max_image_megapixels", 20.0, "largest image, in million pixels", lower_bound=0.01)
_HOSTS = flags.DEFINE_list(
    "image_hosts", [], "hosts from which http(s) image URLs are fetched; without it images come as data URLs alone"
)

flags.adopt_module_key_flags(mesh_flag)


def main(argv: list[str]) -> None:
    from vlm_mu_jax.errors import InputError

    try:
        from vlm_mu_jax.serving import serve as serving
    except ImportError as error:
        raise InputError(f"bin/serve needs {error.name}; install the extra: pip install vlm_mu_jax[serve]") from None
    from vlm_mu_jax.serving.app import ServerLimits
    from vlm_mu_jax.serving.pictures import PictureLimits

    folders = serving.ServedFolders(
        named_paths.by_name("--checkpoint", _CHECKPOINT.value, serving.folder_name),
        [named_paths.split(value) for value in _GUARD.value],
        named_paths.by_name("--adapter", _ADAPTER.value, serving.folder_name),
    )
    command.prepare_jax()
    pictures = PictureLimits(_IMAGES.value, int(_PIXELS.value * 1e6), hosts=tuple(_HOSTS.value))
    options = serving.ServeOptions(
        host=_HOST.value,
        port=_PORT.value,
        rows=_ROWS.value,
        waiting=_WAITING.value,
        context=_CONTEXT.value,
        allow_other_model=_OTHER.value,
        key_file=_KEYS.value,
        limits=ServerLimits(_BODY.value * 1_000_000, _OPEN.value, pictures),
    )
    with mesh_flag.placed(mesh_flag.sizes_from_flags(), _ROWS.value, _CONTEXT.value or _NEW_TOKENS):
        serving.serve(folders, options, command.say)


if __name__ == "__main__":
    command.run(main, __doc__)
