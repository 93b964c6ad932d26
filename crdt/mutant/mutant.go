// Package mutant names faults that can be planted into the product, to see
// whether its tests would notice. Without the build tag "mutants" Is is false for
// the compiler, and nothing of them is in the program.
package mutant

// A Mutant is one planted fault.
type Mutant uint8

const (
	None           Mutant = iota
	StampOrder            // the later stamp wins, whatever its author had seen
	TokenIgnored          // what a person had seen does not matter, only what is here
	StaleToken            // no fresh actor for a write by an old token
	NoContext             // a write says that its author had seen nothing
	SkipDisk              // a write is acknowledged before it is on disk
	AckUnstored           // what a peer sent is acknowledged although it was not stored
	HeldForgotten         // held changes do not outlive a restart
	OutboxVolatile        // what waits for another site does not outlive a restart
	PruneByClock          // a change that is an hour old is not taken any more
	Rollback              // no fresh actor when the disk was set back
	NoDoubt               // a box whose disk was set back does not ask what it lost
	Believing             // cursors are believed although they do not fit the disk
	Echo                  // a guest's echo is taken for a wish
	Deaf                  // what a batch brings beyond its first change is dropped
	XorPrint              // fingerprints are the sum of the ids without carry
	RevokedStays          // a revoked node is a member as before
	RegrantWins           // who is admitted again is a member again, whoever revoked it
	PowersStay            // whom a revoked node admitted stays a member
	KeepsForgotten        // also those whom the revocation keeps are none
	Unfenced              // a proof that a node signed two changes under one dot means nothing
	SameMachine           // no fresh actor when the disk is in another machine
	HeldStays             // held changes are not judged again when trust moves
	ForgetsOwn            // what is written again forgets what its author had written before
	NothingVoid           // what was written under a wrong time counts again in its time
	count
)

// All lists the faults.
func All() (out []Mutant) {
	for m := None + 1; m < count; m++ {
		out = append(out, m)
	}
	return out
}

func (m Mutant) String() string {
	return [...]string{"none", "stamp order", "token ignored", "stale token", "no context", "skip disk", "ack unstored", "held forgotten",
		"outbox volatile", "prune by clock", "rollback", "no doubt", "believing", "echo", "deaf", "xor print",
		"revoked stays", "regrant wins", "powers stay", "keeps forgotten", "unfenced", "same machine", "held stays",
		"forgets own", "nothing void"}[m]
}
