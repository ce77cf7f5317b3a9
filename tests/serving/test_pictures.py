"""Images of requests that are fetched: from allowed hosts alone, without redirects, up to a size."""

import http.server
import io
import threading

import pytest
from PIL import Image

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.serving.pictures import PictureLimits, read_picture


@pytest.fixture(scope="module")
def url():
    """A server with /a.png, /large, and /elsewhere, which redirects to /a.png."""
    raw = io.BytesIO()
    Image.new("RGB", (6, 4), (0, 200, 0)).save(raw, "PNG")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(302 if self.path == "/elsewhere" else 200)
            self.send_header("Location", "/a.png")
            self.end_headers()
            self.wfile.write(raw.getvalue() if self.path == "/a.png" else b"x" * 5000)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_an_image_of_an_allowed_host_is_fetched_and_named_by_its_content(url):
    limits = PictureLimits(hosts=("127.0.0.1",))
    image, name = read_picture(f"{url}/a.png", limits)
    assert image.size == (6, 4) and image.getpixel((0, 0)) == (0, 200, 0)
    assert len(name) == 32


@pytest.mark.parametrize(
    "path, limits, message",
    [
        ("/a.png", PictureLimits(), "fetches no image from that host"),
        ("/a.png", PictureLimits(hosts=("example.org",)), "fetches no image from that host"),
        ("/elsewhere", PictureLimits(hosts=("127.0.0.1",)), "could not be fetched"),
        ("/large", PictureLimits(bytes=4000, hosts=("127.0.0.1",)), "more than 4000 bytes"),
        ("/large", PictureLimits(hosts=("127.0.0.1",)), "not a readable image"),
    ],
)
def test_what_is_not_fetched(url, path, limits, message):
    with pytest.raises(InputError, match=message):
        read_picture(url + path, limits)
