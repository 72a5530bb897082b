#!/bin/sh
# Installs what packages.txt (or a list that is given) names and this Debian lacks: as root, or by sudo; else says what to install.
# Make calls it before there is an environment to run Python in.
set -eu
missing=
for name in $(sed 's/#.*//' "${1:-$(dirname "$0")/packages.txt}"); do
  [ "$(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || missing="$missing $name"
done
[ -n "$missing" ] || exit 0

install="apt-get install --yes --quiet --no-install-recommends$missing"
as_root=
if [ "$(id -u)" != 0 ]; then
  if command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
    as_root=sudo
  else
    printf 'These Debian packages are missing:%s\nAs root, run: apt-get update && %s\n' "$missing" "$install" >&2
    exit 1
  fi
fi
echo "Installing Debian packages:$missing"
$as_root apt-get update --quiet
$as_root env DEBIAN_FRONTEND=noninteractive $install
