package control

// Takeover is the command by which another daemon asks this one to hand over to it. It
// is its owner's alone: with the queues goes the say over every packet.
const Takeover = "takeover"

// TakeoverArgs are the arguments of Takeover.
type TakeoverArgs struct {
	Socket string `json:"socket"` // where it listens for that
}
