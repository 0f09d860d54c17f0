#!/bin/sh
# Installs the pinned Go programs that some tests start, into .tools/bin; what is there already is left alone.
# Without Go it only says what a person can run; the tests then skip (with CI=true they fail) with that command.
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

# Knative's sidecar: tests/integration/test_queue_proxy.py puts it in front of the services.
install queue knative.dev/serving/cmd/queue@v0.48.1
