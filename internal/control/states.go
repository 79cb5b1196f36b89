package control

// StatesArgs are the arguments of the command "states".
type StatesArgs struct {
	Counters bool        `json:"counters"`          // packets and octets too, which the kernel has to be asked for
	Text     bool        `json:"text,omitempty"`    // answer with text instead of states
	Verbose  int         `json:"verbose,omitempty"` // of the text, as State.AppendText takes it
	Filter   StateFilter `json:"filter,omitzero"`
}

// textSize is how many octets of text make an item, about.
const textSize = 32 << 10

// StateSender answers the command "states" with what was asked for: an item for
// each state, or text, many lines an item. Writing the text is the daemon's part,
// for to decode a state takes ten times as long.
type StateSender struct {
	args *StatesArgs
	send func(item any) error
	text []byte
}

// NewStateSender makes one that sends by send.
func NewStateSender(args *StatesArgs, send func(item any) error) *StateSender {
	return &StateSender{args: args, send: send}
}

// Send sends a state, soon.
func (w *StateSender) Send(s *State) error {
	if !w.args.Text {
		return w.send(s)
	}
	w.text = s.AppendText(w.text, w.args.Verbose)
	if len(w.text) < textSize {
		return nil
	}
	return w.Flush()
}

// Flush sends what is left.
func (w *StateSender) Flush() error {
	if len(w.text) == 0 {
		return nil
	}
	text := string(w.text)
	w.text = w.text[:0]
	return w.send(text)
}
