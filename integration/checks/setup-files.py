"""setup-files.py ROOT TIDEMARK WORK: manifests, composition and the configurations in them are what they claim to be.

Kubernetes' own schemas say whether a manifest is one (kubernetes-validate, which has them all); the rest is what an administrator relies on.
"""
import glob, os, subprocess, sys

import kubernetes_validate
import yaml

root, tidemark, work = sys.argv[1:]
VERSION = "1.29"


def read_configuration(text, name):
    path = os.path.join(work, name)
    with open(path, "w") as file:
        file.write(text)
    done = subprocess.run([tidemark, "check", "--print-setup", "--config", path], capture_output=True, text=True)
    assert done.returncode == 0, (name, done.stderr)
    assert done.stdout.startswith("# What "), done.stdout


def pod_of(document):
    spec = document["spec"]
    if document["kind"] == "CronJob":
        assert spec["concurrencyPolicy"] == "Forbid", "two bases at a time"
        spec = spec["jobTemplate"]["spec"]
    return spec["template"]["spec"]


seen = set()
for path in sorted(glob.glob(root + "/docs/install/kubernetes/*.yaml")):
    documents = list(yaml.safe_load_all(open(path)))
    assert documents and all(documents), path
    maps = {d["metadata"]["name"] for d in documents if d["kind"] == "ConfigMap"}
    for document in documents:
        seen.add(document["kind"])
        if document["kind"] != "PodMonitor":  # the operator's own kind
            kubernetes_validate.validate(document, VERSION, strict=True)
        if document["kind"] == "ConfigMap":
            read_configuration(document["data"]["tidemark.yaml"], document["metadata"]["name"] + ".yaml")
        if document["kind"] not in ("StatefulSet", "CronJob"):
            continue
        pod = pod_of(document)
        ours = next(c for c in pod["containers"] if c["name"] == "tidemark")
        context = {**pod.get("securityContext", {}), **ours["securityContext"]}
        assert context["runAsNonRoot"] and context["runAsUser"] > 0 and context["readOnlyRootFilesystem"], path
        assert not context["allowPrivilegeEscalation"] and context["capabilities"] == {"drop": ["ALL"]}, path
        assert context["seccompProfile"] == {"type": "RuntimeDefault"} and "memory" in ours["resources"]["limits"], path
        volumes = {v["name"] for v in pod["volumes"]} | {v["metadata"]["name"] for v in document["spec"].get("volumeClaimTemplates", [])}
        for container in pod["containers"]:
            assert {m["name"] for m in container["volumeMounts"]} <= volumes, (path, container["name"])
        mounts = {m["mountPath"] for m in ours["volumeMounts"]}
        assert {"/etc/tidemark", "/var/lib/tidemark", "/tmp"} <= mounts, path
        named = {v["configMap"]["name"] for v in pod["volumes"] if "configMap" in v} - {"gitaly"}
        assert named <= maps, (path, named)
        if document["kind"] == "StatefulSet":
            assert pod["terminationGracePeriodSeconds"] >= 40, path
            assert ours["livenessProbe"]["httpGet"]["path"] == "/healthz", path
            ports = {p["name"] for p in ours["ports"]}
            assert ours["livenessProbe"]["httpGet"]["port"] in ports and ours["startupProbe"]["httpGet"]["port"] in ports, path
    print("  " + os.path.relpath(path, root) + ": " + ", ".join(d["kind"] for d in documents))
assert {"StatefulSet", "CronJob", "ConfigMap", "Secret", "Service", "PodMonitor"} <= seen, seen

compose = yaml.safe_load(open(root + "/docker/compose.yaml"))
agent = compose["services"]["agent"]
assert agent["user"].split(":")[0] not in ("0", "root") and agent["read_only"] and agent["cap_drop"] == ["ALL"]
assert agent["stop_grace_period"] == "40s" and agent["stop_signal"] == "SIGTERM"
for service in compose["services"].values():
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        assert source in compose["volumes"] or os.path.exists(os.path.join(root, "docker", source)), source
read_configuration(open(root + "/docker/tidemark.yaml").read(), "compose.yaml")
read_configuration(open(root + "/docs/install/tidemark.yaml").read(), "install.yaml")
dockerfile = open(root + "/docker/Dockerfile").read()
assert "\nUSER 10001" in dockerfile and "\nHEALTHCHECK " in dockerfile and "\nSTOPSIGNAL SIGTERM" in dockerfile
print("  docker/: composition, image and configurations")
