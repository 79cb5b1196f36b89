package control

// TakeoverArgs are the arguments of the command "takeover", by which another daemon
// asks this one to hand over to it.
type TakeoverArgs struct {
	Socket string `json:"socket"` // where it listens for that
}
