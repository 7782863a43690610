// A client of presence on libraries for Go: clients LIBRARY URL CA TOKEN USERS.
//
// Says in lines of JSON what comes, for clients.test.js; CA is a file, or empty for ws://. Both
// libraries are used as they come: coder/websocket takes no message above 32 KiB then.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"strings"

	coder "github.com/coder/websocket"
	gorilla "github.com/gorilla/websocket"
)

type line map[string]any

func say(what line) {
	if err := json.NewEncoder(os.Stdout).Encode(what); err != nil {
		panic(err)
	}
}

// story is what is asked and told on one connection, whoever carries it.
type story struct {
	users     []string
	following int
}

// answer is what to send when this came, or nothing.
func (s *story) answer(text string) string {
	if text == "pong" {
		say(line{"got": "pong"})
		watch, _ := json.Marshal(line{"type": "watch", "users": s.users})
		return string(watch)
	}
	var message struct {
		Type   string
		UserID string `json:"user_id"`
		More   bool
		Users  []struct {
			UserID string `json:"user_id"`
			Online bool
		}
	}
	if err := json.Unmarshal([]byte(text), &message); err != nil {
		panic(err)
	}
	switch message.Type {
	case "hello":
		say(line{"got": "hello", "user_id": message.UserID})
		return "ping"
	case "snapshot":
		s.following += len(message.Users)
		if !message.More {
			say(line{"got": "snapshot", "users": s.following})
		}
	case "presence":
		for _, user := range message.Users {
			say(line{"got": "presence", "user_id": user.UserID, "online": user.Online})
		}
	}
	return ""
}

func withCoder(url string, config *tls.Config, header http.Header, protocols []string, s *story) {
	ctx := context.Background()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
	socket, response, err := coder.Dial(ctx, url, &coder.DialOptions{HTTPClient: client, HTTPHeader: header, Subprotocols: protocols})
	if err != nil {
		refused(response, err)
		return
	}
	for {
		_, text, err := socket.Read(ctx)
		var closed coder.CloseError
		if errors.As(err, &closed) {
			say(line{"got": "closed", "code": int(closed.Code), "reason": closed.Reason})
			return
		}
		if err == nil {
			if answer := s.answer(string(text)); answer != "" {
				err = socket.Write(ctx, coder.MessageText, []byte(answer))
			}
		}
		if err != nil {
			say(line{"got": "error", "error": err.Error()})
			return
		}
	}
}

func withGorilla(url string, config *tls.Config, header http.Header, protocols []string, s *story) {
	dialer := gorilla.Dialer{TLSClientConfig: config, Subprotocols: protocols}
	socket, response, err := dialer.Dial(url, header)
	if err != nil {
		refused(response, err)
		return
	}
	for {
		_, text, err := socket.ReadMessage()
		var closed *gorilla.CloseError
		if errors.As(err, &closed) {
			say(line{"got": "closed", "code": closed.Code, "reason": closed.Text})
			return
		}
		if err == nil {
			if answer := s.answer(string(text)); answer != "" {
				err = socket.WriteMessage(gorilla.TextMessage, []byte(answer))
			}
		}
		if err != nil {
			say(line{"got": "error", "error": err.Error()})
			return
		}
	}
}

func refused(response *http.Response, err error) {
	if response == nil {
		say(line{"got": "error", "error": err.Error()})
		return
	}
	say(line{"got": "refused", "status": response.StatusCode})
}

func main() {
	library, url, ca, token, users := os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5]
	var config *tls.Config
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			panic(err)
		}
		config = &tls.Config{RootCAs: x509.NewCertPool()}
		config.RootCAs.AppendCertsFromPEM(pem)
	}
	carry := map[string]func(string, *tls.Config, http.Header, []string, *story){"coder": withCoder, "gorilla": withGorilla}[library]
	bearer := func(token string) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }
	carry(url, config, bearer(token), nil, &story{users: strings.Split(users, ",")})
	carry(url, config, bearer("x"), nil, &story{})
	carry(url, config, nil, []string{"presence.v1", "token.x"}, &story{})
}
