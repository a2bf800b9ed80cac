// gocql, unmodified, against a running cluster.
//
//	tests/clients/install go
//	target/drivers/go/go-driver HOST:PORT[,HOST:PORT...]
//
// Says `ok NAME` after each test and `OK` at the end. With --drive, it asks for nodes to die: it
// prints `@kill N` or `@start N` (nodes from 0) and goes on after a line on standard input. With
// HENGE_NODES (the nodes' HTTP addresses) it compares the driver's picture with the nodes' own.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"net"
	"net/http"
	"os"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gocql/gocql"
	"gopkg.in/inf.v0"
)

var endpoints []string

var answers = bufio.NewReader(os.Stdin)

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func check(is bool, what string, about ...any) {
	if !is {
		panic(fmt.Sprintf(what, about...))
	}
}

// What a careful application does with requests that may be sent twice.
type again struct{}

func (again) Attempt(query gocql.RetryableQuery) bool { return query.Attempts() <= 8 }

func (again) GetRetryType(error) gocql.RetryType { return gocql.RetryNextHost }

func connect(keyspace string, policy gocql.HostSelectionPolicy) *gocql.Session {
	cluster := gocql.NewCluster(endpoints...)
	_, port, err := net.SplitHostPort(endpoints[0])
	must(err)
	cluster.Port, err = strconv.Atoi(port)
	must(err)
	cluster.ProtoVersion = 4
	cluster.Consistency = gocql.Quorum
	cluster.SerialConsistency = gocql.Serial
	cluster.Timeout = 20 * time.Second
	cluster.ConnectTimeout = 20 * time.Second
	cluster.NumConns = 1
	cluster.Keyspace = keyspace
	cluster.RetryPolicy = again{}
	cluster.DefaultIdempotence = true
	cluster.ReconnectInterval = 200 * time.Millisecond
	cluster.ReconnectionPolicy = &gocql.ConstantReconnectionPolicy{MaxRetries: 300, Interval: 200 * time.Millisecond}
	cluster.PoolConfig.HostSelectionPolicy = policy
	cluster.Logger = silent{}
	session, err := cluster.CreateSession()
	must(err)
	return session
}

// Its reconnection attempts to killed nodes are no news.
type silent struct{}

func (silent) Print(...any)          {}
func (silent) Printf(string, ...any) {}
func (silent) Println(...any)        {}

// What a careful application does when the nodes say that they have too much to do, and have done
// nothing of it: the same again, a little later.
func patient(begin func() error) {
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		err := begin()
		var request gocql.RequestError
		busy := errors.As(err, &request) && request.Code() == gocql.ErrCodeOverloaded
		if !busy || time.Now().After(end) {
			must(err)
			return
		}
	}
}

func tokenAware() gocql.HostSelectionPolicy {
	return gocql.TokenAwareHostPolicy(gocql.RoundRobinHostPolicy())
}

func until(what func() bool) {
	for end := time.Now().Add(60 * time.Second); !what(); time.Sleep(50 * time.Millisecond) {
		check(time.Now().Before(end), "too late")
	}
}

func ask(command string) {
	fmt.Println("@" + command)
	line, err := answers.ReadString('\n')
	must(err)
	check(strings.TrimSpace(line) == "done", "%s: %s", command, line)
}

func get(node, path string) string {
	response, err := http.Get(node + path)
	must(err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	must(err)
	check(response.StatusCode == 200, "%s: %s", path, body)
	return string(body)
}

func key(k int32) []byte {
	return []byte{byte(uint32(k) >> 24), byte(uint32(k) >> 16), byte(uint32(k) >> 8), byte(uint32(k))}
}

func escaped(bytes []byte) string {
	var out strings.Builder
	for _, one := range bytes {
		fmt.Fprintf(&out, "%%%02X", one)
	}
	return out.String()
}

// Reads by key at ONE, routed by the driver, are answered by nodes that hold the key.
func routing(s *gocql.Session) {
	nodes := strings.Split(os.Getenv("HENGE_NODES"), ",")
	if nodes[0] == "" {
		return
	}
	must(s.Query("CREATE KEYSPACE gopher1 WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}").Exec())
	defer func() { must(s.Query("DROP KEYSPACE gopher1").Exec()) }()
	must(s.Query("CREATE TABLE gopher1.t (k int PRIMARY KEY, v text)").Exec())
	policy := tokenAware()
	own := connect("gopher1", policy)
	defer own.Close()
	// The driver's answer for a key: whom it asks first.
	for k := int32(0); k < 50; k++ {
		query := own.Query("SELECT v FROM t WHERE k = ?", k).RoutingKey(key(k))
		first := policy.Pick(query)().Info().HostID()
		var where struct{ Replicas []string }
		must(json.Unmarshal([]byte(get(nodes[0], "/v1/where/gopher1.t/"+escaped(key(k)))), &where))
		plain := strings.ReplaceAll(first, "-", "")
		check(len(where.Replicas) == 1 && strings.ReplaceAll(where.Replicas[0], "-", "") == plain,
			"replicas of %d: %v, and the driver asks %s", k, where.Replicas, first)
	}
	forwards := func() (total int) {
		for _, node := range nodes {
			for _, line := range strings.Split(get(node, "/metrics"), "\n") {
				if number, found := strings.CutPrefix(line, "henge_coordinator_forwards_total "); found {
					count, err := strconv.Atoi(number)
					must(err)
					total += count
				}
			}
		}
		return total
	}
	before := forwards()
	var next atomic.Int32
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			for k := next.Add(1); k <= 10_000; k = next.Add(1) {
				patient(func() error {
					return own.Query("SELECT v FROM t WHERE k = ?", k).Consistency(gocql.One).Iter().Close()
				})
			}
		})
	}
	all.Wait()
	check(forwards() == before, "%d of 10,000 reads went to a node without the key", forwards()-before)
}

func metadata(s *gocql.Session) {
	keyspace, err := s.KeyspaceMetadata("gopher")
	must(err)
	table := keyspace.Tables["w"]
	check(table != nil && len(table.PartitionKey) == 2 && len(table.ClusteringColumns) == 1, "%v", keyspace.Tables)
	check(table.PartitionKey[0].Name == "a" && table.ClusteringColumns[0].Name == "c", "%v", table)
	iter := s.Query("SELECT host_id FROM system.peers").Iter()
	check(iter.NumRows() == len(endpoints)-1, "%d peers", iter.NumRows())
	must(iter.Close())
}

func types(s *gocql.Session) {
	columns := []struct {
		kind  string
		value any
	}{
		{"ascii", "a"},
		{"bigint", int64(-1 << 60)},
		{"blob", []byte{0, 255}},
		{"boolean", true},
		{"date", time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC)},
		{"decimal", inf.NewDec(-1250, 2)},
		{"double", 1.5},
		{"duration", gocql.Duration{Months: 1, Days: 2, Nanoseconds: 3}},
		{"float", float32(0.5)},
		{"inet", net.ParseIP("::1")},
		{"int", -5},
		{"smallint", int16(-300)},
		{"text", "é"},
		{"time", 3723*time.Second + 4},
		{"timestamp", time.UnixMilli(1709168523004).UTC()},
		{"timeuuid", gocql.TimeUUID()},
		{"tinyint", int8(-3)},
		{"uuid", gocql.MustRandomUUID()},
		{"varint", new(big.Int).Neg(new(big.Int).Exp(big.NewInt(2), big.NewInt(100), nil))},
		{"list<int>", []int{1, 2, 3}},
		{"map<text, int>", map[string]int{"a": 1, "b": 2}},
		{"set<text>", []string{"x", "y"}},
	}
	var declared, names, marks []string
	values := []any{}
	for at, column := range columns {
		names = append(names, fmt.Sprintf("c%d", at))
		declared = append(declared, names[at]+" "+column.kind)
		marks = append(marks, "?")
		values = append(values, column.value)
	}
	must(s.Query("CREATE TABLE gopher.ty (k int PRIMARY KEY, " + strings.Join(declared, ", ") + ", tu tuple<int, text>)").Exec())
	list := strings.Join(names, ", ")
	must(s.Query("INSERT INTO gopher.ty (k, "+list+") VALUES (1, "+strings.Join(marks, ", ")+")", values...).Exec())
	targets := make([]any, len(columns))
	for at, column := range columns {
		targets[at] = reflect.New(reflect.TypeOf(column.value)).Interface()
	}
	must(s.Query("SELECT " + list + " FROM gopher.ty WHERE k = 1").Scan(targets...))
	for at, column := range columns {
		read := reflect.ValueOf(targets[at]).Elem().Interface()
		own, other := fmt.Sprint(column.value), fmt.Sprint(read)
		check(own == other, "%s: %s is read as %s", column.kind, own, other)
	}
	must(s.Query("UPDATE gopher.ty SET tu = (?, ?) WHERE k = 1", 7, "seven").Exec())
	var number int
	var text string
	must(s.Query("SELECT tu FROM gopher.ty WHERE k = 1").Scan(&number, &text))
	check(number == 7 && text == "seven", "tuple (%d, %s)", number, text)
}

// 10,000 rows, 200 requests at a time on a connection, and pages of them.
func inFlight(s *gocql.Session) {
	var next atomic.Int32
	var all sync.WaitGroup
	for range 200 {
		all.Go(func() {
			for k := next.Add(1) - 1; k < 10_000; k = next.Add(1) - 1 {
				patient(s.Query("INSERT INTO gopher.t (k, v) VALUES (?, ?)", k, fmt.Sprint("v", k)).Exec)
			}
		})
	}
	all.Wait()
	seen := map[int32]bool{}
	pages, state := 0, []byte(nil)
	for {
		iter := s.Query("SELECT k, v FROM gopher.t").PageSize(1_000).PageState(state).Iter()
		state = iter.PageState()
		check(iter.NumRows() == 1_000 || len(state) == 0, "a short page of %d", iter.NumRows())
		var k int32
		var v string
		for iter.Scan(&k, &v) {
			if k >= 0 && k < 10_000 && v == fmt.Sprint("v", k) {
				seen[k] = true
			}
		}
		must(iter.Close())
		pages++
		if len(state) == 0 {
			break
		}
	}
	check(len(seen) == 10_000 && pages >= 10, "%d rows on %d pages", len(seen), pages)
}

func batches(s *gocql.Session) {
	insert := "INSERT INTO gopher.w (a, b, c, v) VALUES (?, ?, ?, ?)"
	one := s.NewBatch(gocql.LoggedBatch)
	for c := range 10 {
		one.Query(insert, 1, "b", c, "z")
	}
	must(s.ExecuteBatch(one))
	var count int
	must(s.Query("SELECT count(*) FROM gopher.w WHERE a = 1 AND b = 'b'").Scan(&count))
	check(count == 10, "%d rows of a batch", count)
	many := s.NewBatch(gocql.UnloggedBatch)
	for a := range 5 {
		many.Query(insert, 20+a, "b", 0, "z")
	}
	must(s.ExecuteBatch(many))
}

// Of sixteen that insert a row if there is none, one is told that it did.
func conditional(s *gocql.Session) {
	for k := 100_000; k < 100_005; k++ {
		var winners atomic.Int32
		var all sync.WaitGroup
		for client := range 16 {
			all.Go(func() {
				found := map[string]any{}
				own := fmt.Sprint("w", client)
				// A retry that is told that its own value stands there has won.
				applied, err := s.Query("INSERT INTO gopher.t (k, v) VALUES (?, ?) IF NOT EXISTS", k, own).MapScanCAS(found)
				must(err)
				if applied || found["v"] == own {
					winners.Add(1)
				}
			})
		}
		all.Wait()
		check(winners.Load() == 1, "%d winners", winners.Load())
	}
	var v string
	must(s.Query("SELECT v FROM gopher.t WHERE k = 100000").Consistency(gocql.Consistency(gocql.Serial)).Scan(&v))
	check(strings.HasPrefix(v, "w"), "%q", v)
}

func counters(s *gocql.Session) {
	must(s.Query("CREATE TABLE gopher.hits (k text PRIMARY KEY, n counter)").Exec())
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			for range 20 {
				// Not sent again: nobody knows whether the first has counted.
				must(s.Query("UPDATE gopher.hits SET n = n + 2 WHERE k = 'page'").Idempotent(false).RetryPolicy(nil).Exec())
			}
		})
	}
	all.Wait()
	var n int64
	must(s.Query("SELECT n FROM gopher.hits WHERE k = 'page'").Scan(&n))
	check(n == 400, "counted to %d", n)
	batch := s.NewBatch(gocql.CounterBatch)
	batch.Query("UPDATE gopher.hits SET n = n - 1 WHERE k = ?", "page")
	batch.Query("UPDATE gopher.hits SET n = n + 1 WHERE k = ?", "other")
	must(s.ExecuteBatch(batch))
	must(s.Query("SELECT n FROM gopher.hits WHERE k = 'page'").Scan(&n))
	check(n == 399, "counted down to %d", n)
}

func timeToLive(s *gocql.Session) {
	must(s.Query("INSERT INTO gopher.t (k, v) VALUES (-2, 'gone') USING TTL 2").Exec())
	var left int
	must(s.Query("SELECT ttl(v) FROM gopher.t WHERE k = -2").Scan(&left))
	check(left == 1 || left == 2, "ttl %d", left)
	until(func() bool {
		iter := s.Query("SELECT v FROM gopher.t WHERE k = -2").Iter()
		rows := iter.NumRows()
		must(iter.Close())
		return rows == 0
	})
}

func traces(s *gocql.Session) {
	var out strings.Builder
	tracer := gocql.NewTraceWriter(s, &out)
	must(s.Query("SELECT v FROM gopher.t WHERE k = 1").Trace(tracer).Iter().Close())
	until(func() bool {
		if strings.Contains(out.String(), "Request complete") {
			return true
		}
		out.Reset()
		must(s.Query("SELECT v FROM gopher.t WHERE k = 1").Trace(tracer).Iter().Close())
		return false
	})
}

func schemaEvents(s *gocql.Session) {
	other := connect("", tokenAware())
	defer other.Close()
	has := func(test func(*gocql.TableMetadata) bool) {
		until(func() bool {
			keyspace, err := s.KeyspaceMetadata("gopher")
			must(err)
			return test(keyspace.Tables["news"])
		})
	}
	has(func(table *gocql.TableMetadata) bool { return table == nil })
	must(other.Query("CREATE TABLE gopher.news (k int PRIMARY KEY)").Exec())
	has(func(table *gocql.TableMetadata) bool { return table != nil })
	must(other.Query("ALTER TABLE gopher.news ADD v int").Exec())
	has(func(table *gocql.TableMetadata) bool { return table != nil && table.Columns["v"] != nil })
	must(other.Query("DROP TABLE gopher.news").Exec())
	has(func(table *gocql.TableMetadata) bool { return table == nil })
}

func failures(s *gocql.Session) {
	fails := func(text string, code int) {
		var request gocql.RequestError
		err := s.Query(text).RetryPolicy(nil).Exec()
		check(errors.As(err, &request) && request.Code() == code, "%s: %v", text, err)
	}
	fails("SELEC", gocql.ErrCodeSyntax)
	fails("SELECT * FROM gopher.nope", gocql.ErrCodeInvalid)
	fails("CREATE TABLE gopher.t (k int PRIMARY KEY)", gocql.ErrCodeAlreadyExists)
}

// Quorum goes on while each node in turn is killed, and prepared statements survive it.
func dyingNodes(s *gocql.Session) {
	written := 0
	some := func(count int) {
		for range count {
			var all sync.WaitGroup
			for range 10 {
				k := 200_000 + written
				written++
				all.Go(func() { patient(s.Query("INSERT INTO gopher.t (k, v) VALUES (?, 'd')", k).Exec) })
			}
			all.Wait()
			var v string
			must(s.Query("SELECT v FROM gopher.t WHERE k = ?", 200_000+written-1).Scan(&v))
			check(v == "d", "%q", v)
		}
	}
	for node := range endpoints {
		some(10)
		ask(fmt.Sprint("kill ", node))
		some(20)
		ask(fmt.Sprint("start ", node))
		some(10)
	}
	for k := range written {
		var v string
		must(s.Query("SELECT v FROM gopher.t WHERE k = ?", 200_000+k).Scan(&v))
	}
}

func run(name string, test func(*gocql.Session), s *gocql.Session) (passed bool) {
	began := time.Now()
	defer func() {
		if trouble := recover(); trouble != nil {
			fmt.Printf("FAILED %s: %v\n", name, trouble)
			return
		}
		fmt.Printf("ok %s (%.1f s)\n", name, time.Since(began).Seconds())
		passed = true
	}()
	test(s)
	return
}

func main() {
	endpoints = strings.Split(os.Args[1], ",")
	s := connect("", tokenAware())
	factor := int(math.Min(3, float64(len(endpoints))))
	must(s.Query("DROP KEYSPACE IF EXISTS gopher").Exec())
	must(s.Query(fmt.Sprintf("CREATE KEYSPACE gopher WITH replication = {'class': 'SimpleStrategy', 'replication_factor': %d}", factor)).Exec())
	must(s.Query("CREATE TABLE gopher.t (k int PRIMARY KEY, v text)").Exec())
	must(s.Query("CREATE TABLE gopher.w (a int, b text, c int, v text, PRIMARY KEY ((a, b), c))").Exec())
	s.Close()
	s = connect("gopher", tokenAware())
	tests := []struct {
		name string
		test func(*gocql.Session)
	}{
		{"metadata", metadata}, {"routing", routing}, {"types", types}, {"in flight", inFlight},
		{"batches", batches}, {"conditional", conditional}, {"counters", counters},
		{"time to live", timeToLive}, {"traces", traces}, {"schema events", schemaEvents},
		{"failures", failures}, {"dying nodes", dyingNodes},
	}
	failed := false
	for _, one := range tests {
		if one.name == "dying nodes" && (len(os.Args) < 3 || os.Args[2] != "--drive") {
			continue
		}
		failed = !run(one.name, one.test, s) || failed
	}
	s.Close()
	if failed {
		os.Exit(1)
	}
	fmt.Println("OK")
}
