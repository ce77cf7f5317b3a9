"""The job files of docs/launch.md can be read by what reads them. They are not run: that needs the clusters."""

import re
import subprocess

import yaml

from tests.conftest import ROOT


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "docs" / "launch.md").read_text(), re.S | re.M)


def test_shell_scripts_parse():
    assert len(blocks("bash")) == 2
    for script in blocks("bash"):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_an_indexed_job_starts_one_process_a_pod():
    service, job = yaml.safe_load_all(next(block for block in blocks("yaml") if "kind: Job" in block))
    name, spec = job["metadata"]["name"], job["spec"]
    assert (
        service["spec"]["selector"] == {"job-name": name}
        and service["metadata"]["name"] == spec["template"]["spec"]["subdomain"]
    )
    flags = dict(word[2:].split("=", 1) for word in spec["template"]["spec"]["containers"][0]["command"][1:])
    assert flags["coordinator"].startswith(f"{name}-0.{service['metadata']['name']}:")
    assert int(flags["num_processes"]) == spec["completions"] == spec["parallelism"]
    assert flags["process_id"] == "$(JOB_COMPLETION_INDEX)" and spec["completionMode"] == "Indexed"


def test_a_task_of_skypilot_deals_out_the_questions_by_node():
    task = yaml.safe_load(next(block for block in blocks("yaml") if "num_nodes" in block))
    assert set(task) == {"name", "resources", "num_nodes", "workdir", "file_mounts", "setup", "run"}
    assert "--shard=$SKYPILOT_NODE_RANK/$SKYPILOT_NUM_NODES" in task["run"]
