"""Clients with many packages of their own (pip install "ift[clients]"), against the real server.

Whoever lacks one of them skips its test. OpenAI's own client and lm-evaluation-harness's are in tests/apps/serving.
"""

import asyncio
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests.apps.serving.conftest import Server, make_served
from tests.running import ROOT


@pytest.fixture(scope="module")
def server(tmp_path_factory, byte_tokenizer) -> Iterator[Server]:
    server = Server(str(make_served(tmp_path_factory.mktemp("served") / "one", byte_tokenizer, seed=1)))
    yield server
    code, output = server.end()
    assert code == 0, output
    assert "Traceback" not in output, output


def test_litellm_reads_answers_streams_and_counts(server):
    litellm = pytest.importorskip("litellm")
    way = {
        "model": "openai/one", "api_base": server.url, "api_key": "none", "max_tokens": 20, "temperature": 0,
        "messages": [{"role": "user", "content": "Name a colour."}],
    }  # fmt: skip
    whole = litellm.completion(**way)
    chunks = list(litellm.completion(**way, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens > 0
    waited = asyncio.run(litellm.acompletion(**way))
    assert waited.choices[0].message.content == text
    with pytest.raises(litellm.BadRequestError, match="max_tokens"):
        litellm.completion(**{**way, "max_tokens": 257}, num_retries=0)


def test_langchain_reads_answers_streams_and_counts(server):
    langchain = pytest.importorskip("langchain_openai")
    model = langchain.ChatOpenAI(
        base_url=server.url, api_key="none", model="one", temperature=0, max_tokens=20, max_retries=0, stream_usage=True
    )
    whole = model.invoke("Name a colour.")
    chunks = list(model.stream("Name a colour."))
    assert "".join(chunk.content for chunk in chunks) == whole.content
    assert whole.usage_metadata["output_tokens"] > 0
    counted = [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]
    assert counted[-1]["output_tokens"] == whole.usage_metadata["output_tokens"]
    assert asyncio.run(model.ainvoke("Name a colour.")).content == whole.content
    assert model.batch(["And?", "Name a colour."])[1].content == whole.content


def test_schemathesis_finds_nothing_in_what_the_openapi_file_promises(server, tmp_path):
    """What fits the file gets an answer or a refusal that the file names; what does not is refused.

    positive_data_acceptance is left out: a file cannot say that the last message is the user's, or that two parameters
    exclude each other.
    """
    command = shutil.which("schemathesis") or shutil.which("st")
    if command is None:
        pytest.skip("needs schemathesis")
    spec = ROOT / "src" / "ift" / "apps" / "serving" / "openapi.json"
    refusals = (
        "[400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429]"  # its own, and 413: a body may be too long
    )
    (tmp_path / "schemathesis.toml").write_text(f"[checks.negative_data_rejection]\nexpected-statuses = {refusals}\n")
    words = ["run", str(spec), "--url", server.url.removesuffix("/v1"), "--max-examples", "60", "--seed", "1"]
    words += ["--checks", "all", "--exclude-checks", "positive_data_acceptance", "--no-color"]
    done = subprocess.run([command, *words], cwd=tmp_path, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
