#!/usr/bin/env bash
# A shell script as a client of nats-pi-bridge: one run, then a session that is asked twice.
#
#   client.sh FIRST_PROMPT SECOND_PROMPT
#
# NATS_ADDRESS is the server (127.0.0.1:4222), OWNER whose agents (you), MODEL the model if it is not the usual one.
# Uses the nats command where it is, and otherwise scripts/nats-request, which needs nothing but bash.
set -euo pipefail

first=$1 second=$2
address=${NATS_ADDRESS:-127.0.0.1:4222}
intake=agents.pi-exec.${OWNER:-${USER:-$(id -un)}}
session=example-$$
scripts=$(dirname "$0")/../../scripts

# Prints the pieces of an answer until the empty message that ends it.
stream() {
    if command -v nats >/dev/null; then
        nats --server "$address" req "$1" "$2" --raw --wait-for-empty --timeout 120s
    else
        "$scripts/nats-request" "$address" "$1" "$2"
    fi
}

# Prints the one message of a request that has no stream.
one() {
    if command -v nats >/dev/null; then
        nats --server "$address" req "$1" "$2" --raw --timeout 30s
    else
        "$scripts/nats-request" --one "$address" "$1" "$2"
    fi
}

# A text as a JSON string. JSON knows no control characters, and bash knows no NUL.
json() {
    local text=$1
    text=${text//\\/\\\\} text=${text//\"/\\\"} text=${text//$'\n'/\\n} text=${text//$'\t'/\\t} text=${text//$'\r'/\\r}
    printf '"%s"' "$text"
}

create="\"body\":$(json "$first"),\"cwd\":\"/tmp\",\"from\":\"client.sh\""
if [[ -n ${MODEL:-} ]]; then create+=",\"model\":$(json "$MODEL")"; fi

echo "== one run"
stream "$intake" "{\"sessionMode\":\"run\",$create}"

echo "== a session"
stream "$intake" "{\"sessionMode\":\"session\",\"sessionId\":\"$session\",$create}"
trap 'one "$intake" "{\"sessionMode\":\"stop\",\"sessionId\":\"$session\"}"' EXIT
stream "$intake.$session" "$second"
