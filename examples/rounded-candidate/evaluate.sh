#!/bin/sh
# Tries the example model with rounded weights as a candidate, on this machine and without a GPU: shadow, then A/B.
# Usage, in the repository's root, after make demo: examples/rounded-candidate/evaluate.sh BITS
set -eu
bits=$1 here=examples/rounded-candidate out=$(mktemp -d) url=http://127.0.0.1:18180
export SACCADE_TRANSFORMER_CACHE=off SACCADE_TRANSFORMER_METRICS_PORT=19096
started=
trap 'kill $started 2>/dev/null || true' EXIT
trap 'exit 1' INT TERM
for port in 18080 18180 18280; do
  if curl -s -o "$out/taken" http://127.0.0.1:$port; then echo "port $port is in use" >&2; exit 1; fi
done
ready() { curl -sf -o "$out/ready" --retry 120 --retry-delay 1 --retry-all-errors "$1/v2/health/ready"; }
serve() {
  .venv/bin/saccade-transformer --predictor_host=127.0.0.1:18080 --http_port=18180 --grpc_port=18181 >>"$out/log" 2>&1 &
  pid=$! started="$started $!"
  ready $url
}

mkdir -p "$out/candidate/detector/1"
cp examples/model-repository/detector/config.pbtxt examples/model-repository/detector/labels.txt "$out/candidate/detector"
.venv/bin/python $here/rounded.py examples/model-repository/detector/1/model.onnx "$out/candidate/detector/1/model.onnx" "$bits"
SACCADE_PREDICTOR_MODEL_REPOSITORY=examples/model-repository SACCADE_PREDICTOR_METRICS_PORT=19095 \
  .venv/bin/saccade-predictor --http_port=18080 --grpc_port=18081 >>"$out/log" 2>&1 &
started="$started $!"
SACCADE_PREDICTOR_MODEL_REPOSITORY="$out/candidate" SACCADE_PREDICTOR_METRICS_PORT=19097 \
  .venv/bin/saccade-predictor --http_port=18280 --grpc_port=18281 >>"$out/log" 2>&1 &
started="$started $!"
ready http://127.0.0.1:18080 && ready http://127.0.0.1:18280

export SACCADE_TRANSFORMER_SHADOW_HOST=127.0.0.1:18280 SACCADE_TRANSFORMER_SHADOW_SHARE=1 \
  SACCADE_TRANSFORMER_SHADOW_DIR="$out/shadow" SACCADE_TRANSFORMER_SHADOW_IMAGES=true
serve
.venv/bin/python $here/cameras.py $url "$out/served.csv"
curl -s http://127.0.0.1:19096/metrics | grep -E '^saccade_shadow_(requests_total|agreement_(sum|count)|iou_(sum|count)|class_changes_total)' | grep -v ' 0.0$'
kill $pid; wait $pid
.venv/bin/saccade shadow-report "$out/shadow" --limit 3 --save "$out/pairs" --json "$out/shadow.json"

unset SACCADE_TRANSFORMER_SHADOW_HOST SACCADE_TRANSFORMER_SHADOW_DIR SACCADE_TRANSFORMER_SHADOW_IMAGES
export SACCADE_TRANSFORMER_CANDIDATE_HOST=127.0.0.1:18280 SACCADE_TRANSFORMER_CANDIDATE_SHARE=0.5 \
  SACCADE_TRANSFORMER_SPLIT_SALT="rounded-$bits" SACCADE_TRANSFORMER_AB_LOG="$out/ab.jsonl"
serve
.venv/bin/python $here/cameras.py $url "$out/outcomes.csv"
kill $pid; wait $pid
.venv/bin/saccade ab-report --log "$out/ab.jsonl" --outcomes "$out/outcomes.csv" --json "$out/ab.json"
echo "everything is in $out"
