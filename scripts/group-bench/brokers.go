// The brokers' processes, with the same settings for groups.
package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

type broker struct {
	name    string
	dir     string
	port    int
	command func(*broker) ([]string, error)
	process *exec.Cmd
	ended   chan struct{}
}

func (b *broker) address() string { return fmt.Sprintf("127.0.0.1:%d", b.port) }

// consumerHeartbeat is group.consumer.heartbeat.interval.ms, Kafka's default: with KIP-848 it is the broker's to say.
const consumerHeartbeat = 5 * time.Second

// groupSettings are Kafka's defaults, but for the session timeout: each kill has to wait for it.
func groupSettings() []string {
	session := strconv.FormatInt(opt.session.Milliseconds(), 10)
	return []string{
		"group.initial.rebalance.delay.ms=3000",
		"group.min.session.timeout.ms=6000",
		"group.consumer.heartbeat.interval.ms=" + strconv.FormatInt(consumerHeartbeat.Milliseconds(), 10),
		"group.consumer.min.session.timeout.ms=" + session,
		"group.consumer.session.timeout.ms=" + session,
	}
}

func corelog() *broker {
	return &broker{name: "corelog", command: func(b *broker) ([]string, error) {
		words := []string{opt.corelog, "--data-dir", filepath.Join(b.dir, "data"), "--listen", b.address()}
		for _, setting := range groupSettings() {
			words = append(words, "--set", setting)
		}
		return words, nil
	}}
}

func kafka() *broker {
	return &broker{name: "kafka", command: func(b *broker) ([]string, error) {
		controller := freePort()
		properties := append([]string{
			"process.roles=broker,controller", "node.id=1",
			fmt.Sprintf("listeners=PLAINTEXT://%s,CONTROLLER://127.0.0.1:%d", b.address(), controller),
			"advertised.listeners=PLAINTEXT://" + b.address(), "controller.listener.names=CONTROLLER",
			fmt.Sprintf("controller.quorum.bootstrap.servers=127.0.0.1:%d", controller),
			"log.dirs=" + filepath.Join(b.dir, "data"), "offsets.topic.replication.factor=1",
		}, groupSettings()...)
		path := filepath.Join(b.dir, "server.properties")
		if err := os.WriteFile(path, []byte(strings.Join(properties, "\n")+"\n"), 0o644); err != nil {
			return nil, err
		}
		java := []string{"-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", opt.libs + "/*"}
		tool := func(words ...string) (string, error) {
			out, err := exec.Command("java", append(append(java, "kafka.tools.StorageTool"), words...)...).CombinedOutput()
			if err != nil {
				return "", fmt.Errorf("kafka's StorageTool %s: %v\n%s", words[0], err, tail(out))
			}
			return strings.TrimSpace(string(out)), nil
		}
		cluster, err := tool("random-uuid")
		if err == nil {
			_, err = tool("format", "-t", cluster[strings.LastIndex(cluster, "\n")+1:], "-c", path, "--standalone")
		}
		// The flags of Kafka's own kafka-server-start.sh.
		words := []string{"java", "-Xms1g", "-Xmx1g", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20",
			"-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent"}
		return append(append(words, java...), "kafka.Kafka", path), err
	}}
}

func freePort() int {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fail("no free port: %v", err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

// start returns when the broker listens.
func (b *broker) start() error {
	b.dir, b.port = filepath.Join(opt.data, b.name), freePort()
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return err
	}
	words, err := b.command(b)
	if err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(b.dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	b.process = exec.Command(words[0], words[1:]...)
	b.process.Stdout, b.process.Stderr = log, log
	// A signal from the terminal is for us; ours is for the brokers.
	b.process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := b.process.Start(); err != nil {
		return fmt.Errorf("%s does not start: %v", b.name, err)
	}
	b.ended = make(chan struct{})
	go func() {
		b.process.Wait()
		close(b.ended)
	}()
	for range 300 {
		select {
		case <-b.ended:
			return fmt.Errorf("%s ended at its start:\n%s", b.name, b.log())
		case <-time.After(200 * time.Millisecond):
		}
		if connection, err := net.DialTimeout("tcp", b.address(), time.Second); err == nil {
			connection.Close()
			return nil
		}
	}
	return fmt.Errorf("%s does not listen within a minute:\n%s", b.name, b.log())
}

func (b *broker) log() []byte {
	out, _ := os.ReadFile(filepath.Join(b.dir, "log"))
	return tail(out)
}

func tail(text []byte) []byte {
	return bytes.TrimSpace(text[max(0, len(text)-2000):])
}

func (b *broker) alive() bool {
	select {
	case <-b.ended:
		return false
	default:
		return true
	}
}

func (b *broker) stop() {
	if b.process == nil || b.process.Process == nil {
		return
	}
	b.process.Process.Signal(syscall.SIGTERM)
	select {
	case <-b.ended:
	case <-time.After(30 * time.Second):
		b.process.Process.Kill()
		<-b.ended
	}
}
