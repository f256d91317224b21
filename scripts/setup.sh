#!/usr/bin/env bash
# Makes .venv fit for the work: 'setup.sh' for running the worker, 'setup.sh dev' for its tests and checks too,
# 'setup.sh bench' for measuring it, 'setup.sh docs' for building its documentation site.
# It may be run from any state: a moved, half-made or outdated environment is made anew.
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-run}
python=${PYTHON:-python3}

fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
  fail "Python 3.11 or newer is needed, but '$python' is $("$python" --version 2>&1 || true); name another one: make PYTHON=python3.13 ..."

wanted=$({ cat pyproject.toml scripts/setup.sh; "$python" -VV; pwd; } | cksum)
stamp=.venv/.ready-$what
if [[ -f $stamp && $(<"$stamp") == "$wanted" ]] && .venv/bin/python -c 'import worker, typer, sqlalchemy' 2>/dev/null; then
  exit 0
fi

make_venv() {
  rm -rf .venv
  "$python" -m venv .venv 2>/dev/null && return
  # Debian's python3 comes without ensurepip; either of these two brings what is missing.
  rm -rf .venv
  "$python" -m virtualenv .venv 2>/dev/null && return
  if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null
    rm -rf .venv
    "$python" -m venv .venv && return
  fi
  fail "'$python -m venv' does not work here; install python3-venv (Debian, Ubuntu) or 'pip install virtualenv'"
}

echo "setup: preparing .venv ($what)" >&2
same_place=$(cat .venv/.place 2>/dev/null || true)
if [[ $same_place != "$(pwd) $("$python" -VV)" ]] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
  make_venv
  echo "$(pwd) $("$python" -VV)" >.venv/.place
fi
pip() { .venv/bin/python -m pip --quiet --disable-pip-version-check "$@"; }
pip install --upgrade 'pip>=25.1' # the first pip that reads dependency groups
if [[ $what == dev && $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
  # Programs that tests need: a real pooler, a browser, jq, systemd-analyze, promtool. Tests without theirs are left out, and the
  # suite's last lines say so.
  missing=()
  [[ -x /usr/sbin/pgbouncer ]] || missing+=(pgbouncer)
  command -v chromium >/dev/null || missing+=(chromium)
  command -v jq >/dev/null || missing+=(jq)
  command -v systemd-analyze >/dev/null || missing+=(systemd)
  [[ -x .venv/bin/promtool && ${#missing[@]} == 0 ]] || apt-get update -qq >/dev/null 2>&1 || true
  for package in "${missing[@]}"; do
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" >/dev/null 2>&1 ||
      echo "setup: $package could not be installed" >&2
  done
  # promtool alone: the package would start a Prometheus on this machine.
  download=$(mktemp -d)
  [[ -x .venv/bin/promtool ]] ||
    (chmod 0777 "$download" && cd "$download" && apt-get download -qq prometheus && dpkg -x prometheus_*.deb . &&
      cp usr/bin/promtool "$OLDPWD/.venv/bin/") >/dev/null 2>&1 ||
    echo "setup: promtool could not be fetched" >&2
  rm -rf "$download"
fi
if [[ $what == run ]]; then
  pip install --editable .
else
  pip install --editable . --group "$what"
fi
echo "$wanted" >"$stamp"
