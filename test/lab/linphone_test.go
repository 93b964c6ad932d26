package lab

// linphone (Debian's linphone-cli) is the lab's second make of telephone: what
// one make forgives, the other may not.
