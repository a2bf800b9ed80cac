// The DataStax driver for Java, version 4, unmodified, against a running cluster.
//
//     tests/clients/install java
//     java -cp 'target/drivers/java/lib/*:target/drivers/java/build/java-driver.jar' Driver HOST:PORT[,HOST:PORT...]
//
// Says `ok NAME` after each test and `OK` at the end. With --drive, it asks for nodes to die: it
// prints `@kill N` or `@start N` (nodes from 0) and goes on after a line on standard input. With
// HENGE_NODES (the nodes' HTTP addresses) it compares the driver's picture with the nodes' own.

import com.datastax.oss.driver.api.core.ConsistencyLevel;
import com.datastax.oss.driver.api.core.CqlSession;
import com.datastax.oss.driver.api.core.CqlSessionBuilder;
import com.datastax.oss.driver.api.core.DefaultConsistencyLevel;
import com.datastax.oss.driver.api.core.config.DefaultDriverOption;
import com.datastax.oss.driver.api.core.config.DriverConfigLoader;
import com.datastax.oss.driver.api.core.config.ProgrammaticDriverConfigLoaderBuilder;
import com.datastax.oss.driver.api.core.cql.AsyncResultSet;
import com.datastax.oss.driver.api.core.cql.BatchStatement;
import com.datastax.oss.driver.api.core.cql.BatchStatementBuilder;
import com.datastax.oss.driver.api.core.cql.BatchType;
import com.datastax.oss.driver.api.core.cql.ColumnDefinition;
import com.datastax.oss.driver.api.core.cql.PreparedStatement;
import com.datastax.oss.driver.api.core.cql.ResultSet;
import com.datastax.oss.driver.api.core.cql.Row;
import com.datastax.oss.driver.api.core.cql.SimpleStatement;
import com.datastax.oss.driver.api.core.data.CqlDuration;
import com.datastax.oss.driver.api.core.data.TupleValue;
import com.datastax.oss.driver.api.core.metadata.Metadata;
import com.datastax.oss.driver.api.core.metadata.Node;
import com.datastax.oss.driver.api.core.metadata.NodeState;
import com.datastax.oss.driver.api.core.metadata.token.Token;
import com.datastax.oss.driver.api.core.servererrors.AlreadyExistsException;
import com.datastax.oss.driver.api.core.servererrors.InvalidQueryException;
import com.datastax.oss.driver.api.core.servererrors.OverloadedException;
import com.datastax.oss.driver.api.core.servererrors.SyntaxError;
import com.datastax.oss.driver.api.core.AllNodesFailedException;
import com.datastax.oss.driver.api.core.DriverException;
import com.datastax.oss.driver.api.core.type.DataTypes;
import com.datastax.oss.driver.api.core.type.TupleType;
import com.datastax.oss.driver.api.core.uuid.Uuids;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.time.Instant;
import java.time.LocalDate;
import java.time.LocalTime;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.UUID;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.Semaphore;
import java.util.function.BooleanSupplier;
import java.util.function.Supplier;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;

public final class Driver {
  interface Test {
    void run() throws Exception;
  }

  static List<String> endpoints;
  static CqlSession session;
  static final BufferedReader answers = new BufferedReader(new InputStreamReader(System.in));

  static void check(boolean is, String what, Object... about) {
    if (!is) {
      throw new AssertionError(String.format(what, about));
    }
  }

  static InetSocketAddress address(String endpoint) {
    int colon = endpoint.lastIndexOf(':');
    int port = Integer.parseInt(endpoint.substring(colon + 1));
    return new InetSocketAddress(endpoint.substring(0, colon), port);
  }

  static CqlSession connect() {
    ProgrammaticDriverConfigLoaderBuilder config =
        DriverConfigLoader.programmaticBuilder()
            .withString(DefaultDriverOption.REQUEST_CONSISTENCY, "QUORUM")
            .withBoolean(DefaultDriverOption.REQUEST_DEFAULT_IDEMPOTENCE, true)
            .withDuration(DefaultDriverOption.REQUEST_TIMEOUT, Duration.ofSeconds(20))
            .withDuration(DefaultDriverOption.CONNECTION_INIT_QUERY_TIMEOUT, Duration.ofSeconds(20))
            .withDuration(DefaultDriverOption.CONTROL_CONNECTION_TIMEOUT, Duration.ofSeconds(20))
            .withDuration(DefaultDriverOption.METADATA_SCHEMA_REQUEST_TIMEOUT, Duration.ofSeconds(20))
            .withDuration(DefaultDriverOption.METADATA_SCHEMA_WINDOW, Duration.ofMillis(50))
            .withClass(
                DefaultDriverOption.RECONNECTION_POLICY_CLASS,
                com.datastax.oss.driver.internal.core.connection.ConstantReconnectionPolicy.class)
            .withDuration(DefaultDriverOption.RECONNECTION_BASE_DELAY, Duration.ofMillis(200))
            .withInt(DefaultDriverOption.CONNECTION_MAX_REQUESTS, 1024);
    CqlSessionBuilder builder =
        CqlSession.builder().withConfigLoader(config.build()).withLocalDatacenter("dc1");
    endpoints.forEach(endpoint -> builder.addContactPoint(address(endpoint)));
    return builder.build();
  }

  // What a careful application does when no node could take a request, or when it was lost with a
  // node and may be sent again.
  static <T> T patient(Supplier<T> begin) {
    long end = System.nanoTime() + 60_000_000_000L;
    while (true) {
      try {
        return begin.get();
      } catch (AllNodesFailedException | OverloadedException error) {
        if (System.nanoTime() > end) {
          throw error;
        }
      }
      sleep();
    }
  }

  static void sleep() {
    try {
      Thread.sleep(50);
    } catch (InterruptedException error) {
      throw new IllegalStateException(error);
    }
  }

  static void until(BooleanSupplier what) {
    long end = System.nanoTime() + 60_000_000_000L;
    while (!what.getAsBoolean()) {
      check(System.nanoTime() < end, "too late");
      sleep();
    }
  }

  static ResultSet execute(String text, Object... values) {
    return patient(() -> session.execute(SimpleStatement.newInstance(text, values)));
  }

  static void ask(String command) throws Exception {
    System.out.println("@" + command);
    check("done".equals(answers.readLine()), command);
  }

  static String get(String url) throws Exception {
    HttpRequest request = HttpRequest.newBuilder(URI.create(url)).build();
    HttpResponse<String> response =
        HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString());
    check(response.statusCode() == 200, "%s: %s", url, response.body());
    return response.body();
  }

  static void metadata() throws Exception {
    Metadata metadata = session.getMetadata();
    check(metadata.getNodes().size() == endpoints.size(), "%s", metadata.getNodes());
    for (Node node : metadata.getNodes().values()) {
      check(node.getState() == NodeState.UP, "%s", node);
    }
    var table = metadata.getKeyspace("java").flatMap(k -> k.getTable("w")).orElseThrow();
    check(table.getPartitionKey().size() == 2, "%s", table.getPartitionKey());
    check(table.getClusteringColumns().size() == 1, "%s", table.getClusteringColumns());
    for (int k : new int[] {0, 1, -7, 123456}) {
      execute("INSERT INTO java.t (k) VALUES (?)", k);
      Token token = execute("SELECT token(k) FROM java.t WHERE k = ?", k).one().getToken(0);
      Token own = metadata.getTokenMap().orElseThrow().newToken(key(k));
      check(token.equals(own), "token of %d: %s, the driver's is %s", k, token, own);
    }
  }

  static ByteBuffer key(int k) {
    return ByteBuffer.allocate(4).putInt(0, k);
  }

  // Reads by key at ONE, routed by the driver, are answered by nodes that hold the key.
  static void routing() throws Exception {
    String nodes = System.getenv("HENGE_NODES");
    if (nodes == null) {
      return;
    }
    execute("CREATE KEYSPACE java2 WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 2}");
    execute("CREATE TABLE java2.t (k int PRIMARY KEY, v text)");
    until(() -> session.getMetadata().getKeyspace("java2").isPresent());
    Pattern id = Pattern.compile("\"([0-9a-f-]{32,36})\"");
    for (int k = 0; k < 50; k++) {
      ByteBuffer key = key(k);
      Set<String> own =
          session.getMetadata().getTokenMap().orElseThrow().getReplicas("java2", key).stream()
              .map(node -> node.getHostId().toString().replace("-", ""))
              .collect(Collectors.toCollection(TreeSet::new));
      StringBuilder escaped = new StringBuilder();
      for (byte one : key.array()) {
        escaped.append(String.format("%%%02X", one));
      }
      Set<String> where = new TreeSet<>();
      Matcher found = id.matcher(get(nodes.split(",")[0] + "/v1/where/java2.t/" + escaped));
      while (found.find()) {
        where.add(found.group(1).replace("-", ""));
      }
      check(own.equals(where) && own.size() == Math.min(2, endpoints.size()),
          "replicas of %d: %s, the driver says %s", k, where, own);
    }
    long before = forwards(nodes);
    PreparedStatement select = session.prepare("SELECT v FROM java2.t WHERE k = ?");
    inParallel(10_000, 100,
        k -> session.executeAsync(select.bind(k).setConsistencyLevel(ConsistencyLevel.ONE)));
    long more = forwards(nodes) - before;
    check(more == 0, "%d of 10,000 reads went to a node without the key", more);
    execute("DROP KEYSPACE java2");
  }

  static long forwards(String nodes) throws Exception {
    long total = 0;
    for (String node : nodes.split(",")) {
      for (String line : get(node + "/metrics").split("\n")) {
        if (line.startsWith("henge_coordinator_forwards_total ")) {
          total += Long.parseLong(line.split(" ")[1]);
        }
      }
    }
    return total;
  }

  interface Begin {
    CompletionStage<AsyncResultSet> at(int number);
  }

  // So many requests, of which a number are under way at a time; those that were refused for want
  // of time are begun again.
  static void inParallel(int count, int width, Begin begin) throws Exception {
    Semaphore places = new Semaphore(width);
    List<Integer> again = java.util.Collections.synchronizedList(new ArrayList<>());
    List<Throwable> failures = java.util.Collections.synchronizedList(new ArrayList<>());
    for (int number = 0; number < count; number++) {
      int own = number;
      places.acquire();
      begin.at(own).whenComplete((result, error) -> {
        if (error instanceof AllNodesFailedException) {
          again.add(own);
        } else if (error != null) {
          failures.add(error);
        }
        places.release();
      });
    }
    places.acquire(width);
    check(failures.isEmpty(), "%s", failures);
    for (int number : again) {
      patient(() -> {
        try {
          return begin.at(number).toCompletableFuture().join();
        } catch (java.util.concurrent.CompletionException error) {
          throw (DriverException) error.getCause();
        }
      });
    }
  }

  static void types() throws Exception {
    Map<String, Object> values = new LinkedHashMap<>();
    values.put("ascii", "a");
    values.put("bigint", -(1L << 60));
    values.put("blob", ByteBuffer.wrap(new byte[] {0, -1}));
    values.put("boolean", true);
    values.put("date", LocalDate.of(2024, 2, 29));
    values.put("decimal", new BigDecimal("-12.50"));
    values.put("double", 1.5);
    values.put("duration", CqlDuration.newInstance(1, 2, 3));
    values.put("float", 0.5f);
    values.put("inet", InetAddress.getByName("::1"));
    values.put("int", -5);
    values.put("smallint", (short) -300);
    values.put("text", "é");
    values.put("time", LocalTime.of(1, 2, 3, 4));
    values.put("timestamp", Instant.ofEpochMilli(1709168523004L));
    values.put("timeuuid", Uuids.timeBased());
    values.put("tinyint", (byte) -3);
    values.put("uuid", UUID.randomUUID());
    values.put("varint", BigInteger.TWO.pow(100).negate());
    values.put("list<int>", List.of(1, 2, 3));
    values.put("map<text, int>", Map.of("a", 1, "b", 2));
    values.put("set<text>", Set.of("x", "y"));
    TupleType pair = DataTypes.tupleOf(DataTypes.INT, DataTypes.TEXT);
    TupleValue tuple = pair.newValue(7, "seven");
    values.put("tuple<int, text>", tuple);
    List<String> names = new ArrayList<>();
    List<String> declared = new ArrayList<>();
    for (String kind : values.keySet()) {
      names.add("c" + names.size());
      declared.add(names.get(names.size() - 1) + " " + kind);
    }
    execute("CREATE TABLE java.ty (k int PRIMARY KEY, " + String.join(", ", declared) + ")");
    String list = String.join(", ", names);
    String marks = values.keySet().stream().map(kind -> "?").collect(Collectors.joining(", "));
    PreparedStatement insert =
        session.prepare("INSERT INTO java.ty (k, " + list + ") VALUES (1, " + marks + ")");
    session.execute(insert.bind(values.values().toArray()));
    Row row = execute("SELECT " + list + " FROM java.ty WHERE k = 1").one();
    int at = 0;
    for (Map.Entry<String, Object> column : values.entrySet()) {
      Object read = row.getObject(at++);
      boolean same = read instanceof TupleValue other
          ? other.getInt(0) == 7 && "seven".equals(other.getString(1))
          : column.getValue().equals(read);
      check(same, "%s: %s is read as %s", column.getKey(), column.getValue(), read);
    }
    for (ColumnDefinition column : row.getColumnDefinitions()) {
      check(column.getTable().asInternal().equals("ty"), "%s", column);
    }
  }

  // 10,000 rows, 200 requests at a time, and pages of them.
  static void inFlight() throws Exception {
    PreparedStatement insert = session.prepare("INSERT INTO java.t (k, v) VALUES (?, ?)");
    inParallel(10_000, 200 * endpoints.size(), k -> session.executeAsync(insert.bind(k, "v" + k)));
    Set<Integer> seen = new HashSet<>();
    ResultSet pages =
        session.execute(SimpleStatement.newInstance("SELECT k, v FROM java.t").setPageSize(1000));
    for (Row row : pages) {
      int k = row.getInt("k");
      if (k >= 0 && k < 10_000 && ("v" + k).equals(row.getString("v"))) {
        seen.add(k);
      }
    }
    check(seen.size() == 10_000, "%d rows", seen.size());
    check(pages.getExecutionInfos().size() >= 10, "%d pages", pages.getExecutionInfos().size());
  }

  static void batches() {
    PreparedStatement insert = session.prepare("INSERT INTO java.w (a, b, c, v) VALUES (?, ?, ?, ?)");
    BatchStatementBuilder one = BatchStatement.builder(BatchType.LOGGED);
    for (int c = 0; c < 10; c++) {
      one.addStatement(insert.bind(1, "b", c, "z"));
    }
    session.execute(one.build());
    long count = execute("SELECT count(*) FROM java.w WHERE a = 1 AND b = 'b'").one().getLong(0);
    check(count == 10, "%d rows of a batch", count);
    BatchStatementBuilder many = BatchStatement.builder(BatchType.UNLOGGED);
    for (int a = 20; a < 25; a++) {
      many.addStatement(insert.bind(a, "b", 0, "z"));
    }
    session.execute(many.build());
  }

  // Of sixteen that insert a row if there is none, one is told that it did.
  static void conditional() throws Exception {
    PreparedStatement insert =
        session.prepare("INSERT INTO java.t (k, v) VALUES (?, ?) IF NOT EXISTS");
    for (int k = 100_000; k < 100_005; k++) {
      int key = k;
      List<java.util.concurrent.CompletableFuture<AsyncResultSet>> asked = new ArrayList<>();
      for (int client = 0; client < 16; client++) {
        asked.add(session.executeAsync(insert.bind(key, "w" + client)).toCompletableFuture());
      }
      int winners = 0;
      for (int client = 0; client < 16; client++) {
        AsyncResultSet result = asked.get(client).get();
        // A retry that is told that its own value stands there has won.
        boolean won = result.wasApplied() || ("w" + client).equals(result.one().getString("v"));
        winners += won ? 1 : 0;
      }
      check(winners == 1, "%d winners", winners);
    }
    SimpleStatement serial =
        SimpleStatement.newInstance("SELECT v FROM java.t WHERE k = 100000")
            .setConsistencyLevel(DefaultConsistencyLevel.SERIAL);
    check(session.execute(serial).one().getString(0).startsWith("w"), "no winner");
  }

  static void counters() throws Exception {
    execute("CREATE TABLE java.hits (k text PRIMARY KEY, n counter)");
    SimpleStatement add =
        SimpleStatement.newInstance("UPDATE java.hits SET n = n + 2 WHERE k = 'page'")
            // Not sent again: nobody knows whether the first has counted.
            .setIdempotent(false);
    inParallel(200, 10, number -> session.executeAsync(add));
    long n = execute("SELECT n FROM java.hits WHERE k = 'page'").one().getLong(0);
    check(n == 400, "counted to %d", n);
    PreparedStatement other = session.prepare("UPDATE java.hits SET n = n - ? WHERE k = ?");
    session.execute(BatchStatement.newInstance(BatchType.COUNTER, other.bind(1L, "page"), other.bind(5L, "other")));
    n = execute("SELECT n FROM java.hits WHERE k = 'page'").one().getLong(0);
    check(n == 399, "counted down to %d", n);
  }

  static void timeToLive() {
    execute("INSERT INTO java.t (k, v) VALUES (-2, 'gone') USING TTL 2");
    int left = execute("SELECT ttl(v) FROM java.t WHERE k = -2").one().getInt(0);
    check(left == 1 || left == 2, "ttl %d", left);
    until(() -> execute("SELECT v FROM java.t WHERE k = -2").one() == null);
  }

  static void traces() {
    SimpleStatement traced =
        SimpleStatement.newInstance("SELECT * FROM java.t WHERE k = 1").setTracing(true);
    var trace = session.execute(traced).getExecutionInfo().getQueryTrace();
    check(trace.getEvents().size() >= 3, "%s", trace.getEvents());
    check(trace.getParameters().get("query").contains("java.t"), "%s", trace.getParameters());
  }

  static void schemaEvents() {
    try (CqlSession other = connect()) {
      Supplier<java.util.Optional<?>> table =
          () -> session.getMetadata().getKeyspace("java").flatMap(k -> k.getTable("news"));
      other.execute("CREATE TABLE java.news (k int PRIMARY KEY)");
      until(() -> table.get().isPresent());
      other.execute("ALTER TABLE java.news ADD v int");
      until(() -> session.getMetadata().getKeyspace("java").flatMap(k -> k.getTable("news"))
          .flatMap(t -> t.getColumn("v")).isPresent());
      other.execute("DROP TABLE java.news");
      until(() -> table.get().isEmpty());
    }
  }

  static void failures() {
    fails("SELEC", SyntaxError.class);
    fails("SELECT * FROM java.nope", InvalidQueryException.class);
    fails("CREATE TABLE java.t (k int PRIMARY KEY)", AlreadyExistsException.class);
  }

  static void fails(String text, Class<?> kind) {
    try {
      session.execute(text);
    } catch (DriverException error) {
      check(kind.isInstance(error), "%s: %s", text, error);
      return;
    }
    throw new AssertionError("no error: " + text);
  }

  // Quorum goes on while each node in turn is killed, and prepared statements survive it.
  static void dyingNodes() throws Exception {
    PreparedStatement insert = session.prepare("INSERT INTO java.t (k, v) VALUES (?, 'd')");
    PreparedStatement select = session.prepare("SELECT v FROM java.t WHERE k = ?");
    int[] written = {0};
    class Some {
      void of(int count) throws Exception {
        for (int i = 0; i < count; i++) {
          int first = 200_000 + written[0];
          written[0] += 10;
          inParallel(10, 10, k -> session.executeAsync(insert.bind(first + k)));
          Row row = patient(() -> session.execute(select.bind(first + 9))).one();
          check(row != null && "d".equals(row.getString(0)), "%s", row);
        }
      }
    }
    Some some = new Some();
    for (int node = 0; node < endpoints.size(); node++) {
      until(() -> session.getMetadata().getNodes().values().stream()
          .allMatch(one -> one.getState() == NodeState.UP && one.getOpenConnections() > 0));
      some.of(10);
      ask("kill " + node);
      some.of(20);
      ask("start " + node);
      some.of(10);
    }
    for (int k = 0; k < written[0]; k++) {
      int key = 200_000 + k;
      check(patient(() -> session.execute(select.bind(key))).one() != null, "lost %d", key);
    }
  }

  public static void main(String[] arguments) throws Exception {
    endpoints = List.of(arguments[0].split(","));
    session = connect();
    System.out.println("protocol version " + session.getContext().getProtocolVersion());
    int factor = Math.min(3, endpoints.size());
    execute("DROP KEYSPACE IF EXISTS java");
    execute("CREATE KEYSPACE java WITH replication = {'class': 'SimpleStrategy', 'replication_factor': " + factor + "}");
    execute("CREATE TABLE java.t (k int PRIMARY KEY, v text)");
    execute("CREATE TABLE java.w (a int, b text, c int, v text, PRIMARY KEY ((a, b), c))");
    Map<String, Test> tests = new LinkedHashMap<>();
    tests.put("metadata", Driver::metadata);
    tests.put("routing", Driver::routing);
    tests.put("types", Driver::types);
    tests.put("in flight", Driver::inFlight);
    tests.put("batches", Driver::batches);
    tests.put("conditional", Driver::conditional);
    tests.put("counters", Driver::counters);
    tests.put("time to live", Driver::timeToLive);
    tests.put("traces", Driver::traces);
    tests.put("schema events", Driver::schemaEvents);
    tests.put("failures", Driver::failures);
    if (List.of(arguments).contains("--drive")) {
      tests.put("dying nodes", Driver::dyingNodes);
    }
    boolean failed = false;
    for (Map.Entry<String, Test> test : tests.entrySet()) {
      long began = System.nanoTime();
      try {
        test.getValue().run();
        System.out.printf("ok %s (%.1f s)%n", test.getKey(), (System.nanoTime() - began) / 1e9);
      } catch (Throwable error) {
        failed = true;
        System.out.println("FAILED " + test.getKey() + ": " + error);
        error.printStackTrace(System.out);
      }
    }
    session.close();
    if (failed) {
      System.exit(1);
    }
    System.out.println("OK");
  }
}
