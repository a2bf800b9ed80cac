// The DataStax driver for Node.js, unmodified, against a running cluster.
//
//     tests/clients/install
//     NODE_PATH=target/drivers/node/node_modules node tests/clients/node_driver.js HOST:PORT[,HOST:PORT...]
//
// Says `ok NAME` after each test and `OK` at the end. With --drive, it asks for nodes to die: it
// prints `@kill N` or `@start N` (nodes from 0) and goes on after a line on standard input.
"use strict";

const assert = require("assert");
const readline = require("readline");
const cassandra = require("cassandra-driver");

const { types, policies } = cassandra;
const QUORUM = types.consistencies.quorum;

const endpoints = process.argv.find((arg) => /^[\d.]+:\d+/.test(arg)).split(",");
const port = Number(endpoints[0].split(":")[1]);

// What a careful application does with requests that may be sent twice.
class NextHost extends policies.retry.RetryPolicy {
  again(info) {
    return info.nbRetry < 5 ? this.retryResult(QUORUM, false) : this.rethrowResult();
  }
  onReadTimeout(info) { return this.again(info); }
  onWriteTimeout(info) { return this.again(info); }
  onUnavailable(info) { return this.again(info); }
  onRequestError(info) { return this.again(info); }
}

function connect(options = {}) {
  return new cassandra.Client({
    contactPoints: endpoints,
    localDataCenter: "dc1",
    protocolOptions: { port, maxSchemaAgreementWaitSeconds: 30 },
    policies: {
      retry: new NextHost(),
      reconnection: new policies.reconnection.ConstantReconnectionPolicy(200),
    },
    queryOptions: { consistency: QUORUM, prepare: true, isIdempotent: true },
    pooling: { coreConnectionsPerHost: { 0: 1, 1: 1 }, maxRequestsPerConnection: 2048 },
    socketOptions: { readTimeout: 20000, connectTimeout: 20000 },
    refreshSchemaDelay: 100,
    ...options,
  });
}

async function until(what, seconds = 60) {
  const end = Date.now() + seconds * 1000;
  while (!(await what())) {
    assert(Date.now() < end, "too late: " + what);
    await new Promise((done) => setTimeout(done, 50));
  }
}

// What a careful application does when the nodes say that they have too much to do, and have done
// nothing of it: the same again, a little later.
async function patient(begin) {
  const end = Date.now() + 60000;
  for (;;) {
    try {
      return await begin();
    } catch (error) {
      const all = error.innerErrors ? Object.values(error.innerErrors) : [error];
      const busy = all.length > 0 && all.every((one) => one.code === types.responseErrorCodes.overloaded);
      if (!busy || Date.now() > end) throw error;
    }
    await new Promise((done) => setTimeout(done, 50));
  }
}

const answers = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();

async function ask(command) {
  console.log("@" + command);
  assert.strictEqual((await answers.next()).value, "done");
}

const tests = {
  async metadata(client) {
    const hosts = client.hosts.values();
    assert.strictEqual(hosts.length, endpoints.length);
    assert(hosts.every((host) => host.isUp()));
    const table = await client.metadata.getTable("nodejs", "w");
    assert.deepStrictEqual(table.partitionKeys.map((c) => c.name), ["a", "b"]);
    assert.deepStrictEqual(table.clusteringKeys.map((c) => c.name), ["c"]);
    for (const k of [0, 1, -7, 123456]) {
      await client.execute("INSERT INTO nodejs.t (k) VALUES (?)", [k]);
      const row = (await client.execute("SELECT token(k) AS of_key FROM nodejs.t WHERE k = ?", [k])).first();
      const key = Buffer.alloc(4);
      key.writeInt32BE(k);
      const own = client.metadata.tokenizer.hash(key);
      assert.strictEqual(row.of_key.toString(), own.toString(), "token of " + k);
      assert.strictEqual(client.getReplicas("nodejs", key).length, Math.min(3, endpoints.length));
    }
  },

  // The driver knows who holds a key, and asks nobody else. With HENGE_NODES.
  async routing(client) {
    const nodes = (process.env.HENGE_NODES || "").split(",").filter((node) => node);
    if (nodes.length === 0) return;
    const get = async (path, node = nodes[0]) => (await fetch(node + path)).text();
    const forwards = async () => {
      let all = 0;
      for (const node of nodes) {
        const line = /^henge_coordinator_forwards_total (\d+)$/m.exec(await get("/metrics", node));
        all += Number(line[1]);
      }
      return all;
    };
    const factor = Math.min(2, endpoints.length);
    await client.execute(`CREATE KEYSPACE nodejs2 WITH replication = {'class': 'SimpleStrategy', 'replication_factor': ${factor}}`);
    await client.execute("CREATE TABLE nodejs2.t (k int PRIMARY KEY, v text)");
    await client.metadata.refreshKeyspace("nodejs2");
    const bare = (id) => id.toString().replace(/-/g, "");
    for (let k = 0; k < 50; k++) {
      const key = Buffer.alloc(4);
      key.writeInt32BE(k);
      const own = client.getReplicas("nodejs2", key).map((host) => bare(host.hostId)).sort();
      const path = [...key].map((byte) => "%" + byte.toString(16).padStart(2, "0").toUpperCase()).join("");
      const where = JSON.parse(await get("/v1/where/nodejs2.t/" + path));
      assert.deepStrictEqual(where.replicas.map(bare).sort(), own, "replicas of " + k);
    }
    const before = await forwards();
    let next = 0;
    const reader = async () => {
      while (next < 10000) {
        await client.execute("SELECT v FROM nodejs2.t WHERE k = ?", [next++], { consistency: types.consistencies.localOne });
      }
    };
    await Promise.all(Array.from({ length: 50 }, reader));
    assert.strictEqual((await forwards()) - before, 0, "reads that went to a node without the key");
    await client.execute("DROP KEYSPACE nodejs2");
  },

  async counters(client) {
    await client.execute("CREATE TABLE nodejs.hits (k text PRIMARY KEY, n counter)");
    const once = { isIdempotent: false, retry: new policies.retry.FallthroughRetryPolicy() };
    const add = (k, by) => client.execute("UPDATE nodejs.hits SET n = n + ? WHERE k = ?", [by, k], once);
    await Promise.all(Array.from({ length: 100 }, () => add("page", 2)));
    const count = async (k) =>
      (await client.execute("SELECT n FROM nodejs.hits WHERE k = ?", [k])).first().n.toNumber();
    assert.strictEqual(await count("page"), 200);
    const query = "UPDATE nodejs.hits SET n = n + ? WHERE k = ?";
    await client.batch([{ query, params: [-1, "page"] }, { query, params: [5, "other"] }], { prepare: true, counter: true });
    assert.deepStrictEqual([await count("page"), await count("other")], [199, 5]);
  },

  async types(client) {
    const values = {
      c_ascii: "a",
      c_bigint: types.Long.fromString("-1152921504606846976"),
      c_blob: Buffer.from([0, 255]),
      c_boolean: true,
      c_date: types.LocalDate.fromString("2024-02-29"),
      c_decimal: types.BigDecimal.fromString("-12.50"),
      c_double: 1.5,
      c_duration: new types.Duration(1, 2, types.Long.fromNumber(3)),
      c_float: 0.5,
      c_inet: types.InetAddress.fromString("::1"),
      c_int: -5,
      c_smallint: -300,
      c_text: "é",
      c_time: types.LocalTime.fromString("01:02:03.000000004"),
      c_timestamp: new Date(1709168523004),
      c_timeuuid: types.TimeUuid.now(),
      c_tinyint: -3,
      c_uuid: types.Uuid.random(),
      c_varint: types.Integer.fromString("-1267650600228229401496703205376"),
      c_list: [1, 2, 3],
      c_map: { a: 1, b: 2 },
      c_set: ["x", "y"],
      c_tuple: types.Tuple.fromArray([1, "two"]),
    };
    const of = { c_list: "list<int>", c_map: "map<text, int>", c_set: "set<text>", c_tuple: "tuple<int, text>" };
    const names = Object.keys(values);
    const declared = names.map((name) => name + " " + (of[name] || name.slice(2))).join(", ");
    await client.execute(`CREATE TABLE nodejs.ty (k int PRIMARY KEY, ${declared})`);
    const marks = names.map(() => "?").join(", ");
    await client.execute(`INSERT INTO nodejs.ty (k, ${names}) VALUES (1, ${marks})`, Object.values(values));
    const row = (await client.execute("SELECT * FROM nodejs.ty WHERE k = 1")).first();
    for (const name of names) {
      const [own, read] = [values[name], row[name]];
      const same = own && own.equals ? own.equals(read) : JSON.stringify(own) === JSON.stringify(read);
      assert(same, `${name}: ${own} is read as ${read}`);
    }
  },

  // 10,000 rows, hundreds of requests at a time on a connection, and pages of them.
  async in_flight(client) {
    const insert = "INSERT INTO nodejs.t (k, v) VALUES (?, ?)";
    let next = 0;
    const writer = async () => {
      while (next < 10000) {
        const k = next++;
        await client.execute(insert, [k, "v" + k]);
      }
    };
    await Promise.all(Array.from({ length: 200 }, writer));
    const seen = new Set();
    let state;
    do {
      const page = await client.execute("SELECT k, v FROM nodejs.t", [], { fetchSize: 1000, pageState: state });
      assert(page.rows.length === 1000 || !page.pageState, "a short page");
      page.rows.filter((row) => row.k >= 0 && row.k < 10000 && row.v === "v" + row.k).forEach((row) => seen.add(row.k));
      state = page.pageState;
    } while (state);
    assert.strictEqual(seen.size, 10000);
  },

  async batches(client) {
    const insert = "INSERT INTO nodejs.w (a, b, c, v) VALUES (?, ?, ?, ?)";
    const one = Array.from({ length: 10 }, (_, c) => ({ query: insert, params: [1, "b", c, "z"] }));
    await client.batch(one, { prepare: true });
    const count = await client.execute("SELECT count(*) FROM nodejs.w WHERE a = 1 AND b = 'b'");
    assert.strictEqual(count.first().count.toNumber(), 10);
    const many = Array.from({ length: 5 }, (_, a) => ({ query: insert, params: [20 + a, "b", 0, "z"] }));
    await client.batch(many, { prepare: true, logged: false });
  },

  async conditional(client) {
    const insert = "INSERT INTO nodejs.t (k, v) VALUES (?, ?) IF NOT EXISTS";
    for (let k = 100000; k < 100005; k++) {
      const asked = Array.from({ length: 16 }, (_, i) => client.execute(insert, [k, "w" + i]));
      const rows = (await Promise.all(asked)).map((result) => result.first());
      const winners = rows.filter((row) => row["[applied]"]);
      assert.strictEqual(winners.length, 1, JSON.stringify(rows));
      const stored = (await client.execute("SELECT v FROM nodejs.t WHERE k = ?", [k])).first().v;
      assert(rows.every((row) => row["[applied]"] || row.v === stored));
    }
  },

  async time_to_live(client) {
    await client.execute("INSERT INTO nodejs.t (k, v) VALUES (-2, 'gone') USING TTL 2");
    const left = (await client.execute("SELECT ttl(v) AS left FROM nodejs.t WHERE k = -2")).first().left;
    assert(left === 1 || left === 2, "ttl " + left);
    await until(async () => (await client.execute("SELECT v FROM nodejs.t WHERE k = -2")).rowLength === 0);
  },

  async traces(client) {
    const result = await client.execute("SELECT * FROM nodejs.t WHERE k = 1", [], { traceQuery: true });
    const id = result.info.traceId;
    assert(id, "no trace");
    const trace = await new Promise((done, fail) =>
      client.metadata.getTrace(id, QUORUM, (error, trace) => (error ? fail(error) : done(trace))));
    assert(trace.events.length >= 3 && trace.duration >= 0, JSON.stringify(trace));
    assert(trace.parameters.query.includes("nodejs.t"), JSON.stringify(trace));
  },

  async schema_events(client) {
    const other = connect({ localDataCenter: client.datacenter });
    await other.execute("CREATE TABLE nodejs.news (k int PRIMARY KEY)");
    await until(async () => (await client.metadata.getTable("nodejs", "news")) !== null);
    await other.execute("ALTER TABLE nodejs.news ADD v int");
    await until(async () => "v" in (await client.metadata.getTable("nodejs", "news")).columnsByName);
    await other.execute("DROP TABLE nodejs.news");
    await until(async () => (await client.metadata.getTable("nodejs", "news")) === null);
    await other.shutdown();
  },

  async errors(client) {
    const fails = async (text, code) => {
      const error = await client.execute(text, [], { prepare: false }).then(() => null, (error) => error);
      assert.strictEqual(error && error.code, code, `${text}: ${error}`);
    };
    await fails("SELEC", types.responseErrorCodes.syntaxError);
    await fails("SELECT * FROM nodejs.nope", types.responseErrorCodes.invalid);
    await fails("CREATE TABLE nodejs.t (k int PRIMARY KEY)", types.responseErrorCodes.alreadyExists);
  },
};

// Quorum goes on while each node in turn is killed, and prepared statements survive it.
async function dying_nodes(client) {
  let written = 0;
  const some = async (count) => {
    for (let i = 0; i < count; i++) {
      const keys = Array.from({ length: 10 }, () => 200000 + written++);
      await Promise.all(keys.map((k) => client.execute("INSERT INTO nodejs.t (k, v) VALUES (?, 'd')", [k])));
      const last = await client.execute("SELECT v FROM nodejs.t WHERE k = ?", [keys[9]]);
      assert.strictEqual(last.first().v, "d");
    }
  };
  for (let node = 0; node < endpoints.length; node++) {
    await until(() => client.hosts.values().every((host) => host.isUp()));
    await some(10);
    await ask("kill " + node);
    await some(20);
    await ask("start " + node);
    await some(10);
  }
  for (let i = 0; i < written; i++) {
    const row = (await client.execute("SELECT v FROM nodejs.t WHERE k = ?", [200000 + i])).first();
    assert(row, "lost " + (200000 + i));
  }
}

async function main() {
  const probe = connect({ localDataCenter: undefined, policies: {
    loadBalancing: new policies.loadBalancing.RoundRobinPolicy(),
  } });
  await probe.connect();
  const datacenter = probe.hosts.values()[0].datacenter;
  await probe.shutdown();
  const client = connect({ localDataCenter: datacenter });
  client.datacenter = datacenter;
  await client.connect();
  const execute = client.execute.bind(client);
  client.execute = (...args) => patient(() => execute(...args));
  console.log("protocol version", client.controlConnection.protocolVersion);
  const factor = Math.min(3, endpoints.length);
  await client.execute("DROP KEYSPACE IF EXISTS nodejs");
  await client.execute(`CREATE KEYSPACE nodejs WITH replication = {'class': 'SimpleStrategy', 'replication_factor': ${factor}}`);
  await client.execute("CREATE TABLE nodejs.t (k int PRIMARY KEY, v text)");
  await client.execute("CREATE TABLE nodejs.w (a int, b text, c int, v text, PRIMARY KEY ((a, b), c))");
  const all = process.argv.includes("--drive") ? { ...tests, dying_nodes } : tests;
  let failed = 0;
  for (const [name, test] of Object.entries(all)) {
    const began = Date.now();
    try {
      await test(client);
      console.log(`ok ${name} (${((Date.now() - began) / 1000).toFixed(1)} s)`);
    } catch (error) {
      failed++;
      console.log(`FAILED ${name}\n${error.stack}`);
    }
  }
  await client.shutdown();
  if (failed > 0) process.exit(1);
  console.log("OK");
  process.exit(0);
}

main().catch((error) => {
  console.log(error);
  process.exit(1);
});
