"""The W&B report: built without a network, and taken by a stand-in for W&B's server as it would go out."""

import gzip
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from whole_runs import SMALL

from fastgen import cli
from fastgen.runs.run import PARTS, find_runs
from pipelines.errors import UserError

ROOT = Path(__file__).parent.parent
pytest.importorskip("wandb_workspaces")


def command(arguments, environment):
    return subprocess.run(
        [sys.executable, "-m", "fastgen.cli", *arguments],
        capture_output=True, text=True, timeout=240, cwd=ROOT, env={**os.environ, **environment},
    )  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs that logged offline; one has the id that an agent of a sweep chose."""
    folder = tmp_path_factory.mktemp("logged")
    common = ["recipe=quickstart", *SMALL, "track.wandb=offline", "track.project=noise", "track.entity=me"]
    for name, environment in (("a", {}), ("b", {"WANDB_RUN_ID": "chosen-by-agent"})):
        done = command(["train", *common, f"seed={len(name)}", f"run.dir={folder / name}"], environment)
        assert done.returncode == 0, done.stderr
    return find_runs([folder])


def spec_of(report):
    return json.loads(report._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))


def check_blocks(spec, runs):
    """What must be in it: tables, curves of these runs alone, how to run them again, and their recipes."""
    blocks = spec["blocks"]
    texts = [block["content"] for block in blocks if block["type"] == "markdown-block"]
    assert [line.split(" | ")[:3] for line in texts[0].splitlines()] == [
        ["| run", "state", "epochs"], ["| ---", "---", "---"], ["| a", "finished", "4"], ["| b", "finished", "4"]
    ]  # fmt: skip
    code = [
        "\n".join(line["children"][0]["text"] for line in b["children"]) for b in blocks if b["type"] == "code-block"
    ]
    for run in runs:
        assert f"```\n{run.command}\n```" in texts and (run.folder / "recipe.yaml").read_text().rstrip() in [
            c.rstrip() for c in code
        ]
        assert any(run.summary.manifest_sha256[:12] in text for text in texts)
    grids = [block["metadata"] for block in blocks if block["type"] == "panel-grid"]
    ids = [(run.folder / "wandb_id.txt").read_text() for run in runs]
    assert "chosen-by-agent" in ids and len(set(ids)) == 2
    filters = [grid["runSets"][0]["filters"]["filters"] for grid in grids]
    assert [(f["key"]["name"], f["op"], f["value"]) for (f,) in filters] == [
        ("name", "IN", ids),
        *(("name", "IN", [one]) for one in ids),
    ]
    panels = [[panel["config"] for panel in grid["panelBankSectionConfig"]["panels"]] for grid in grids]
    assert [panel["metrics"] for panel in panels[0]] == [
        ["train_running_loss_nats"],
        ["train_top1_percent", "test_top1_percent"],
    ]
    for curves, images in panels[1:]:
        assert curves["metrics"] == list(PARTS) and curves["xAxis"] == "epoch" and images["mediaKeys"] == ["samples"]


def test_it_is_built_without_a_network(runs, monkeypatch):
    import socket

    from fastgen.report.wandb_report import build

    def refused(*_):
        raise AssertionError("building a report used the network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    report = build(runs, "noise", "me")
    check_blocks(spec_of(report), runs)
    assert (report.project, report.entity) == ("noise", "me")


def test_the_runs_logged_what_it_draws(runs):
    """Keys of the panels are in the files that `wandb sync` sends."""
    for run in runs:
        (logged,) = run.folder.rglob("*.wandb")
        content = logged.read_bytes()
        for key in ("train_running_loss_nats", "train_top1_corrupted_part_percent", "test_top1_percent", "samples"):
            assert key.encode() in content
        assert [path.suffix for path in run.folder.rglob("media/images/*")] == [".png"]


class StandIn(BaseHTTPRequestHandler):
    """Answers what saving a report asks for, and keeps the report."""

    saved: list[dict]

    def do_POST(self):
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        asked = json.loads(gzip.decompress(raw) if self.headers.get("Content-Encoding") == "gzip" else raw)
        query, given = asked.get("query", ""), asked.get("variables") or {}
        project = {"id": "P1", "internalId": "1", "name": "noise", "entityName": "me"}
        data = {"project": project, "model": project}
        if "viewer" in query:
            data["viewer"] = {
                "id": "U", "flags": "{}", "entity": "me", "username": "me", "email": "me@example.org", "admin": False,
                "apiKeys": {"edges": []}, "teams": {"edges": []},
            }  # fmt: skip
        if "upsertView" in query:
            self.saved.append(given)
            view = {key: given[key] for key in ("type", "name", "displayName", "description", "spec")}
            view |= {"id": "Vmlldzox", "project": project, "updatedAt": "2026-01-01T00:00:00"}
            data["upsertView"] = {"view": view, "inserted": True}
        elif "models" in query:
            node = {**project, "createdAt": "2026-01-01T00:00:00Z", "isBenchmark": False, "user": None}
            data["models"] = {
                "edges": [{"node": {**node, "__typename": "Project"}, "cursor": "c"}],
                "pageInfo": {"endCursor": None, "hasNextPage": False},
            }
        self.answer({"data": data})

    def do_GET(self):
        self.answer({})

    def answer(self, what):
        body = json.dumps(what).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    StandIn.saved = []
    listening = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listening.server_address[1]}"
    listening.shutdown()


def test_the_request_holds_the_blocks_and_the_link_is_printed(runs, server):
    environment = {"WANDB_BASE_URL": server, "WANDB_API_KEY": "a" * 40}
    done = command(["report", *(str(run.folder) for run in runs), "--wandb"], environment)
    assert done.returncode == 0, done.stderr
    (request,) = StandIn.saved
    assert (request["entityName"], request["projectName"], request["type"]) == ("me", "noise", "runs")
    assert request["displayName"] == "quickstart"
    check_blocks(json.loads(request["spec"]), runs)
    lines = done.stdout.splitlines()
    assert lines[-1].startswith(f"{server}/me/noise/reports/quickstart--Vmlldzox")
    assert [line for line in lines if "wandb sync" in line and str(runs[0].folder) in line]


def test_mistakes(runs, tmp_path, capsys):
    from fastgen.report.wandb_report import where

    (identifier := runs[0].folder / "wandb_id.txt").rename(kept := tmp_path / "id")
    with pytest.raises(UserError, match="was not logged to W&B; train with track.wandb"):
        where(runs)
    kept.rename(identifier)
    runs[0].settings["track.project"] = "another"
    with pytest.raises(UserError, match="shows runs of one project"):
        where(runs)
    del runs[0].__dict__["settings"]
    assert cli.main(["report", str(runs[0].folder), "--wandb", "--output", "x.html"]) == 2
    assert "leave one of them out" in capsys.readouterr().err


def test_a_server_that_is_not_there(runs):
    environment = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "a" * 40, "WANDB_HTTP_TIMEOUT": "1"}
    done = command(["report", str(runs[0].folder), "--wandb"], environment)
    assert done.returncode == 2 and "fastgen: W&B did not take the report" in done.stderr, done.stderr
