#!/usr/bin/env bash
# Ollama and, beside it, the pull of $MODEL, tried until the model is there.
set -o pipefail

# ollama pull redraws its screen ten times a second; of that, a line for each percent
progress() {
  declare -A said
  LC_ALL=C sed -u 's/\x1b\[1G/\n/g; s/\x1b\[[?0-9]*[A-Za-z]//g; s/[^ -~\n]//g; s/  */ /g' |
    while read -r line; do
      step=${line%%%*}
      [[ -z $step || ${said[$step]} ]] && continue
      said[$step]=1
      echo "$line"
    done
}

# An interrupted pull can leave an empty part, at which every later one ends in "Error: EOF" (a whole
# part is a JSON object). Only without all parts of its blob does Ollama begin that one anew.
remove_torn_parts() {
  local part
  grep --files-without-match '}' "${OLLAMA_MODELS:-$HOME/.ollama/models}"/blobs/*-partial-* 2>/dev/null |
    while read -r part; do rm -f "${part%-partial-*}"-partial*; done
}

# Before each try it looks again: somebody may have put the model there by hand meanwhile.
get_model() {
  until ollama list; do sleep 0.5; done &>/dev/null
  until ollama show "$MODEL" &>/dev/null; do
    echo "getting the model $MODEL"
    remove_torn_parts
    ollama pull "$MODEL" 2>&1 | progress && return
    echo "the pull failed; next try in 5 s"
    sleep 5
  done
}

# not `exec ollama serve`: a stop in its first moments, before it listens to signals, ends in 0 too
trap 'kill $(jobs -p) 2>/dev/null; wait; exit 0' TERM INT
get_model &
# to stdout it writes its access log: a line for every health check
ollama serve >/dev/null &
wait $!
