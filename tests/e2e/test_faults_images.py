"""Images that a provider refuses: the conversation goes on without them."""

import signal

import pytest

from support import provider_rules
from support.model_script import Failure, ToolCall
from support.pictures import DAMAGED, JPEG, SOUND, png
from support.strict_model import api_of, change_models, images, refuse, spec_of, spread, strictly

pytestmark = pytest.mark.any_server

APIS = provider_rules.APIS
PROCESS = {
    provider_rules.ANTHROPIC: "Could not process image",
    provider_rules.COMPLETIONS: "Invalid image: cannot identify image file",
    provider_rules.RESPONSES: "The image data you provided does not represent a valid image. Please check your input and try again.",
    provider_rules.GOOGLE: "Unable to process input image. Please retry or report in the developers' guide.",
}


@pytest.fixture
def daemon(new_daemon):
    """Its models see images."""
    found = new_daemon()
    change_models(found, input=["text", "image"])
    return found.start()


def put(daemon, files):
    for name, content in files.items():
        (daemon.cwd / name).write_bytes(content)


def task(request):
    """The last prompt. Images of results have a message of their own in some APIs, which is none."""
    return [text for text in request.prompts if "image" not in text][-1]


def reader(*names):
    """A model that reads these files in one answer when it is told to look, and then says so."""

    def answer(request):
        if task(request).endswith("look") and not request.tool_results:
            return [ToolCall("read", {"path": name}) for name in names]
        return f"seen: {task(request)[-10:]}"

    return answer


def refusing(bad, answer, words=PROCESS, status=400):
    """Refuses every request with one of the images `bad`."""

    def reply(request):
        if any(image in bad for image in images(request)):
            found = words if isinstance(words, str) else words[api_of(request)]
            return refuse(request, found, status)
        return answer(request)

    return reply


@pytest.mark.parametrize(("name", "api"), spread(DAMAGED, ["garbage.png", "ten-bytes.gif"]))
def test_a_damaged_image_is_told_to_the_model(daemon, model, name, api):
    put(daemon, {name: DAMAGED[name]})
    model.answer(strictly(refusing([DAMAGED[name]], reader(name))))
    assert daemon.session("s", "look", model=spec_of(api)).text() == "seen: look"
    results = [text for request in model.requests for text, _ in request.tool_results]
    # What the model is told is no image and is not empty.
    assert results and all(results)
    assert daemon.prompt("s", "and then").text() == "seen: and then"
    assert daemon.run("look", model=spec_of(api)).text() == "seen: look"


@pytest.mark.parametrize(("name", "api"), spread(SOUND, ["sound.png"]))
def test_a_sound_image_is_shown(daemon, model, name, api):
    put(daemon, SOUND)
    model.answer(strictly(reader(name)))
    assert daemon.run("look", model=spec_of(api)).text() == "seen: look"
    assert images(model.requests[-1]) == [SOUND[name]]


WORDS = [
    "Could not process image",
    "messages.2.content.0.tool_result.content.1.image.source.base64.data: image cannot be empty",
    "The image was specified using the image/png media type, but the image appears to be a image/jpeg image",
    "Invalid image: cannot identify image file <_io.BytesIO object>",
    "You uploaded an unsupported image. Please make sure your image is valid and has one of the following formats: webp.",
    "Unable to process input image. Please retry or report.",
    "Provided image is not valid.",
    "failed to decode image: invalid checksum",
    "Failed to load image: cannot identify image file",
    "image_url is only supported by certain models",
    "This model does not support image input",
]


@pytest.mark.parametrize("words", WORDS, ids=range(len(WORDS)))
def test_a_sound_image_that_is_refused_is_left_out(daemon, model, words):
    api = APIS[WORDS.index(words) % 4]
    put(daemon, SOUND)
    model.answer(strictly(refusing(SOUND.values(), reader("sound.png"), words)))
    assert daemon.session("s", "look", model=spec_of(api)).text() == "seen: look"
    sent = len(model.requests)
    assert daemon.prompt("s", "and then").text() == "seen: and then"
    # The repair stays: the image is not tried again.
    assert len(model.requests) == sent + 1


def test_a_refused_image_stays_out_after_a_restart(daemon, model):
    put(daemon, SOUND)
    model.answer(strictly(refusing(SOUND.values(), reader("sound.png"))))
    assert daemon.session("s", "look").text() == "seen: look"
    daemon.signal(signal.SIGKILL)
    daemon.wait_exit()
    daemon.start()
    assert daemon.prompt("s", "and then").text() == "seen: and then"


def test_an_image_that_the_next_provider_refuses(daemon, model):
    """It was taken where the conversation began."""
    put(daemon, SOUND)
    model.answer(strictly(reader("sound.png")))
    assert daemon.session("s", "look").text() == "seen: look"
    model.answer(strictly(refusing(SOUND.values(), reader())))
    for api in APIS:
        daemon.bus.ask_json(f"{daemon.subject('s')}.configure", {"model": spec_of(api)})
        assert daemon.prompt("s", f"by {api[:6]}").text() == f"seen: by {api[:6]}"


def test_a_refusal_that_is_not_about_an_image_leaves_the_images(daemon, model):
    put(daemon, SOUND)
    model.script([ToolCall("read", {"path": "sound.png"})], "seen")
    assert daemon.session("s", "look").text() == "seen"
    model.script(Failure(400, "max_tokens: 99999 > 8192"))
    daemon.prompt("s", "again").failure()
    model.script("fine")
    assert daemon.prompt("s", "and then").text() == "fine"
    assert images(model.requests[-1]) == [SOUND["sound.png"]]


LIMITS = [
    (1, "At most 1 image(s) may be provided in one request."),
    (5, "Too many images provided. This model supports up to 5 images."),
    (3, "messages: too many images and documents: 4 > 3"),
]


@pytest.mark.parametrize(("limit", "words"), LIMITS, ids=["one", "five", "three"])
def test_more_images_than_the_provider_takes(daemon, model, limit, words):
    put(daemon, {f"{number}.png": png(number, 1) for number in range(1, 8)})

    def answer(request):
        count = len(images(request))
        if count > limit:
            return refuse(request, words)
        if task(request) == "look at 7" and len(request.tool_results) < 7:
            return ToolCall("read", {"path": f"{len(request.tool_results) + 1}.png"})
        return f"seen: {task(request)}"

    model.answer(strictly(answer))
    api = APIS[limit % 4]
    assert daemon.session("s", "look at 7", model=spec_of(api)).text() == "seen: look at 7"
    assert daemon.prompt("s", "and then").text() == "seen: and then"


MEGABYTE = 1 << 20


def refusing_bytes(limit, answer):
    """Refuses every request of more bytes, as Anthropic does. The last value is the list of refused requests."""
    told = []
    document = {"type": "error", "error": {"type": "request_too_large", "message": "Request exceeds the maximum size"}}

    def reply(request):
        if int(request.headers["content-length"]) > limit:
            told.append(request)
            return Failure(413, document)
        return answer(request)

    return reply, told


def look_at_nine(daemon, model, api, picture, limit, seconds):
    names = [f"{number}.png" for number in range(9)]
    put(daemon, dict.fromkeys(names, picture))
    answer, told = refusing_bytes(limit, reader(*names))
    model.answer(strictly(answer))
    assert daemon.session("s", "look", model=spec_of(api)).text(timeout=seconds) == "seen: look"
    refused = len(told)
    assert daemon.prompt("s", "and then").text(timeout=seconds) == "seen: and then"
    # The repair stays.
    assert len(told) == refused
    return told


@pytest.mark.timeout(150)
def test_more_bytes_than_the_provider_takes(daemon, model):
    """Nine images of 3 MB are more than the 32 MiB that Anthropic takes in one request, which is known beforehand."""
    look_at_nine(daemon, model, "anthropic-messages", png(1000, 1050, level=0), 32 * MEGABYTE, seconds=70)
    # The newest ones are still there.
    assert 0 < len(images(model.requests[-1])) < 9


@pytest.mark.parametrize("api", APIS)
def test_more_bytes_than_a_gateway_takes(daemon, model, api):
    """Its limit is its own secret."""
    look_at_nine(daemon, model, api, png(250, 250, level=0), MEGABYTE, seconds=15)


def test_a_proxy_that_takes_less_and_says_so_in_html(daemon, model):
    """nginx in front of a server takes one megabyte."""
    put(daemon, {"large.png": png(700, 700, level=0), "small.jpg": JPEG})

    def answer(request):
        if int(request.headers["content-length"]) > MEGABYTE:
            return Failure(413, "<html><head><title>413 Request Entity Too Large</title></head></html>", {"Content-Type": "text/html"})
        return reader("large.png", "small.jpg")(request)

    model.answer(strictly(answer))
    assert daemon.session("s", "look", model=spec_of("openai-completions")).text() == "seen: look"
    assert daemon.prompt("s", "and then").text() == "seen: and then"
