"""Compiled programs on disk: read by the next process, and nothing left of a command that compiled none."""

import os
import subprocess
import sys

from vlm_mu_jax.parallel import compilation_cache


def test_a_command_that_compiled_nothing_leaves_no_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(compilation_cache, "_made", [])
    folder = compilation_cache._own_folder(tmp_path / "runs" / ".xla_cache")
    compilation_cache.drop_empty()
    assert not list(tmp_path.iterdir())
    folder = compilation_cache._own_folder(tmp_path / "runs" / ".xla_cache")
    (folder / "program").write_text("")
    compilation_cache.drop_empty()
    assert (folder / "program").exists()


def test_the_compilation_cache_serves_a_second_process(tmp_path, root):
    """A program compiled once is read from disk by the next process, and an unusable folder is no failure."""
    code = (
        "import logging, jax, jax.numpy as jnp\n"
        "from vlm_mu_jax.parallel import compilation_cache\n"
        "print(compilation_cache.enable())\n"
        "jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)\n"
        "hits = []\n"
        "jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))\n"
        "jax.jit(lambda x: jnp.tanh(x) @ x)(jnp.ones((4, 4))).block_until_ready()\n"
        "print(hits.count('/jax/compilation_cache/cache_hits') > 0)\n"
    )

    def run(cache: str) -> list[str]:
        environment = {**os.environ, "VLM_MU_CACHE": cache, "PYTHONPATH": str(root)}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and done.stderr == "", done.stderr
        return done.stdout.split()

    folder = str(tmp_path / "xla")
    first, second = run(folder), run(folder)
    assert first[0].startswith(folder) and first[1] == "False"
    assert second == [first[0], "True"]
    (tmp_path / "file").write_text("not a folder")
    assert run(str(tmp_path / "file"))[0] == "None"
    assert run("off")[0] == "None"
