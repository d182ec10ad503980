"""A whole run into a bucket, begun over an endpoint that fails every third request: same bytes."""

import json
from pathlib import Path

import pytest
from buckets import BUCKET, endpoint, proxied, use
from click.testing import CliRunner
from screens import config_of

from bgscale.cli import main
from bgscale.config import template
from bgscale.places import bucket, place_at
from bgscale.run import Run


@pytest.mark.slow
def test_a_run_into_a_bucket_gives_the_same_bytes(
    small_screen: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bucket, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(bucket, "LONGEST_PAUSE_S", 0.01)
    bucket._opened.cache_clear()
    store = f"s3://{BUCKET}/whole/results.zarr"
    config = config_of(small_screen, tmp_path).model_copy(update={"store": store})
    run_toml = tmp_path / "run.toml"
    run_toml.write_text(template(config), encoding="utf-8")

    def call(*arguments: str) -> str:
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output
        return result.output

    with endpoint() as address, proxied(address, how="503") as proxy:
        use(monkeypatch, proxy.address)
        Run.from_config(config).execute(until="cut")
        assert proxy.failed > 50
        # the same requests as before, and many: the endpoint is slow enough without failures
        use(monkeypatch, address)
        call("run", str(run_toml))
        place = place_at(store)
        names = [p.relative_to(finished).as_posix() for p in finished.rglob("*") if p.is_file()]
        for name in names:
            if name != "zarr.json":
                assert place.read(name) == (finished / name).read_bytes(), name
        assert "no run works on it now" in call("status", store)
        assert json.loads(call("table", store, "--json"))
        # a shard that is lost is found by the records, and made again
        lost = next(name for name in names if "crops/image/c/" in name)
        place.delete([lost])
        assert CliRunner().invoke(main, ["verify", store]).exit_code == 3
        call("run", str(run_toml))
        assert place.read(lost) == (finished / lost).read_bytes()
        call("verify", store, "--deep")
    assert not any(path.name.startswith("s3:") for path in tmp_path.iterdir())
    bucket._opened.cache_clear()
