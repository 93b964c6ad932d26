#!/bin/sh
# Makes the spoken prompts again: every line of prompts.txt becomes
# en/NAME.wav, 8 kHz, one channel, G.711 µ-law. Wants espeak-ng and sox
# (apt-get install espeak-ng sox). The voice program is free software
# (GPL-3.0); what it says is ours.
set -eu
cd "$(dirname "$0")"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
rm -f en/*.wav
mkdir -p en
grep -v '^#' prompts.txt | while IFS="$(printf '\t')" read -r name text; do
	printf '%s' "$text" | espeak-ng -v en-us -s 200 -p 42 -a 90 --stdin -w "$tmp/raw.wav"
	# Telephone band, silence cut off at both ends and to 0.12 s between, speech at -3 dB.
	sox -D -R "$tmp/raw.wav" -r 8000 -c 1 -e mu-law "en/$name.wav" \
		gain -3 highpass 180 silence -l 1 0.01 0.4% -1 0.12 0.4% reverse silence 1 0.01 0.4% reverse norm -3 rate -s 8000 pad 0 0.03
done
du -cb en/*.wav | tail -1
