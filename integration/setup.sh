#!/bin/sh
# Installs the programs that tests, demo and benchmarks run, on Debian and its
# derivatives. Does nothing when all are there. Needs root.
set -eu

# program:package
needs="
iptables:iptables
nft:nftables
ip:iproute2
ethtool:ethtool
nginx:nginx-light
apache2:apache2
slowhttptest:slowhttptest
iperf3:iperf3
haproxy:haproxy
curl:curl
conntrack:conntrack
ipset:ipset
sysctl:procps
setpriv:util-linux
systemd-analyze:systemd
"

PATH=$PATH:/usr/sbin:/sbin

missing=
for need in $needs; do
	if ! command -v "${need%%:*}" >/dev/null 2>&1; then
		missing="$missing ${need#*:}"
	fi
done
if [ -z "$missing" ]; then
	exit 0
fi

if [ "$(id -u)" -ne 0 ]; then
	echo "setup.sh: install$missing: must be root" >&2
	exit 1
fi
if ! command -v apt-get >/dev/null 2>&1; then
	echo "setup.sh: install$missing: no apt-get here, install them by hand" >&2
	exit 1
fi

# Servers start when they are installed. A policy of 101 forbids it, and
# whatever policy was there before comes back however this script ends.
policy=/usr/sbin/policy-rc.d
kept=$policy.before-nfqfw
restore() {
	rm -f "$policy"
	if [ -e "$kept" ]; then
		mv "$kept" "$policy"
	fi
}
trap restore EXIT
trap 'exit 1' HUP INT TERM
# If the kept one exists, an earlier run was killed and the other is its own.
if [ -e "$policy" ] && [ ! -e "$kept" ]; then
	mv "$policy" "$kept"
fi
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 755 "$policy"

export DEBIAN_FRONTEND=noninteractive
echo "setup.sh: installing$missing"
apt-get -q update
# The list is words.
# shellcheck disable=SC2086
apt-get -q -y --no-install-recommends install $missing

# Nor shall what came just now start at the next boot.
for package in $missing; do
	case $package in
	apache2) update-rc.d apache2 disable ;;
	nginx-light) update-rc.d nginx disable ;;
	haproxy) update-rc.d haproxy disable ;;
	esac
done
