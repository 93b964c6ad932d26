#!/bin/sh
# Runs every fuzz target of the module for the time given, one after the other.
# go test sometimes takes the end of that time for a failure and says nothing
# but "context deadline exceeded" (golang/go#75804); an input that fails is
# always named, so that this is told apart. Making what is interesting smaller
# may take all of the time (by default a minute for each), so it gets a second.
set -eu
cd "$(dirname "$0")/.."
time=${1:-10m}
said=$(mktemp)
trap 'rm -f "$said"' EXIT
targets=$(grep -rlE '^func Fuzz[A-Z]' --include='*_test.go' . | sort | while read -r file; do
	sed -nE "s|^func (Fuzz[A-Za-z0-9_]+)\(.*|$(dirname "$file") \1|p" "$file"
done)
crashes=$(mktemp)
trap 'rm -f "$said" "$crashes"' EXIT
echo "$targets" | while read -r dir target; do
	echo "fuzz $dir $target"
	if ! go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 1s "$dir" </dev/null >"$said" 2>&1; then
		cat "$said"
		grep -q 'context deadline exceeded' "$said" && ! grep -q 'Failing input' "$said" || echo "$dir $target" >>"$crashes"
	fi
	tail -1 "$said"
done
[ -s "$crashes" ] || exit 0
echo "fuzz: these failed:"
cat "$crashes"
exit 1
