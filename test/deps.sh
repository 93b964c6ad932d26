#!/bin/sh
# Installs what the tests need on Debian 12, if anything is missing and we are
# root. Says what is missing otherwise, and fails.
set -eu
cd "$(dirname "$0")/.."

missing=
need() { # command, package
	command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
PATH="$PATH:/usr/local/go/bin:/usr/sbin:/sbin"
need ip iproute2
need tc iproute2
need nft nftables
need nsenter util-linux
need sysctl procps
need sipp sip-tester
need baresip baresip-core
need sipsak sipsak
need kamailio kamailio
need linphone-daemon linphone-cli
need sox sox
need tcpdump tcpdump
need chromium chromium
for m in g711 aubridge aufile sndfile ctrl_tcp menu mwi account uuid; do
	[ -e "/usr/lib/baresip/modules/$m.so" ] || missing="$missing baresip-core"
done
missing=$(printf '%s\n' $missing | sort -u | tr '\n' ' ')
[ -n "${missing# }" ] || exit 0

if [ "$(id -u)" != 0 ]; then
	echo "test/deps.sh: missing: $missing" >&2
	echo "test/deps.sh: as root: apt-get install --no-install-recommends $missing" >&2
	[ "${CI:-}" = true ] && exit 1
	echo "test/deps.sh: going on without; tests that need them are skipped and say so" >&2
	exit 0
fi
echo "test/deps.sh: installing: $missing"
export DEBIAN_FRONTEND=noninteractive
# Kamailio's package starts a service of its own; we only want its program.
policy=/usr/sbin/policy-rc.d
made=
if [ ! -e $policy ]; then
	printf '#!/bin/sh\nexit 101\n' >$policy
	chmod +x $policy
	made=1
fi
status=0
apt-get -q update && apt-get -q -y install --no-install-recommends $missing || status=$?
[ -z "$made" ] || rm -f $policy
if [ $status != 0 ]; then
	echo "test/deps.sh: apt-get could not install: $missing" >&2
	exit $status
fi
for m in g711 aubridge aufile sndfile ctrl_tcp menu mwi account uuid; do
	if [ ! -e "/usr/lib/baresip/modules/$m.so" ]; then
		echo "test/deps.sh: baresip-core of this Debian has no $m.so" >&2
		exit 1
	fi
done
