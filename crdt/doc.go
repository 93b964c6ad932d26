// Package crdt is the replicated state as mathematics: signed, immutable
// changes; cells that keep every version nobody has covered; merge; and the
// policies that read one value out of several.
//
// Law: the state of a scope is a set of changes, and merge is union, then drop
// what is covered. Nothing here looks at a clock, a disk or a schema, so equal
// sets of changes give equal states in any order, on any version of the
// program. A write covers what its author saw (dotted version vectors per cell:
// Preguiça, Baquero, Almeida, Fonte, Gonçalves, "Dotted Version Vectors", 2010)
// and nothing else: time never decides what is lost.
package crdt
