//! Tests of reading, checking and showing settings.

use std::collections::BTreeSet;

use super::*;

fn parse(text: &str) -> Result<Config, Vec<Problem>> {
    Config::parse(text, []).map(|loaded| loaded.config)
}

fn parse_with(text: &str, variables: &[(&str, &str)]) -> Result<Loaded, Vec<Problem>> {
    let variables = variables.iter().map(|(name, value)| ((*name).into(), (*value).into()));
    Config::parse(text, variables)
}

fn shipped(name: &str) -> String {
    let path = format!("{}/config/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn an_empty_file_gives_the_defaults() {
    assert_eq!(parse(""), Ok(Config::default()));
}

#[test]
fn the_shipped_file_lists_every_key_with_its_default() {
    let text = shipped("henge.toml");
    assert_eq!(parse(&text), Ok(Config::default()));
    let made = Config::default().to_commented_toml();
    assert_eq!(text, made, "made from the table of keys: henge config > config/henge.toml");
}

#[test]
fn the_shipped_three_nodes_make_one_cluster_of_three_nodes() {
    let nodes: Vec<Config> = (1..=3)
        .map(|i| parse(&shipped(&format!("node{i}.toml"))).expect("the file parses"))
        .collect();
    let ids: BTreeSet<_> = nodes.iter().map(Config::node_id).collect();
    let directories: BTreeSet<_> = nodes.iter().map(|node| node.node.data_dir.clone()).collect();
    assert_eq!((ids.len(), directories.len()), (3, 3));
    for (i, node) in (1u8..).zip(&nodes) {
        assert_eq!(node.cluster, nodes[0].cluster);
        assert!(node.is_founder());
        assert_eq!(node.listen.http, SocketAddr::from(([127, 0, 0, i], 8098)));
        assert_eq!(node.listen.cql, SocketAddr::from(([127, 0, 0, i], 9042)));
        let founder = &node.cluster.founders[usize::from(i) - 1];
        assert_eq!((&founder.name, &founder.address), (&node.node.name, &node.peer_address()));
    }
}

#[test]
fn the_effective_configuration_reads_back_as_itself() {
    let mut config = Config::default();
    config.node.data_dir = PathBuf::from("a \"quoted\" \\ directory");
    config.listen.advertise_address = Some("host:7000".to_owned());
    config.cluster.suspect_phi = 9.5;
    assert_eq!(parse(&config.to_toml()), Ok(config.clone()));
    assert_eq!(parse(&config.to_commented_toml()), Ok(config));
}

#[test]
fn a_typo_is_refused_with_the_nearest_key_and_its_line() {
    let problems = parse("[cluster]\nname = \"c\"\npartitons = 64\n").unwrap_err();
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].source, Source::Line(3));
    assert!(problems[0].message.contains("did you mean \"partitions\"?"), "{problems:?}");
}

#[test]
fn a_key_in_the_wrong_section_is_told_where_it_belongs() {
    let problems = parse("[node]\npartitions = 64\n").unwrap_err();
    assert!(problems[0].message.contains("it belongs in [cluster]"), "{problems:?}");
}

#[test]
fn a_misspelt_section_and_a_stray_value_are_refused() {
    let problems = parse("storage = 3\n[lisen]\nhttp = \"x\"\n").unwrap_err();
    assert!(problems[0].message.contains("[storage] is a section"), "{problems:?}");
    assert!(problems[1].message.contains("did you mean \"listen\"?"), "{problems:?}");
}

#[test]
fn all_problems_are_reported_at_once_each_with_its_line() {
    let text = "\
[cluster]
partitions = 100
founders = []
[listen]
http = \"0.0.0.0:8098\"
peer = 7000
[storage]
engine = \"slad\"
cache_mb = -1
[log]
level = \"inof\"
";
    let problems = parse(text).unwrap_err();
    let lines: Vec<_> = problems
        .iter()
        .filter_map(|problem| match problem.source {
            Source::Line(line) => Some(line),
            _ => None,
        })
        .collect();
    let distinct: BTreeSet<_> = lines.iter().copied().collect();
    assert_eq!(distinct.into_iter().collect::<Vec<_>>(), [2, 3, 5, 6, 8, 9, 11], "{problems:?}");
    assert!(problems.iter().any(|p| p.message.contains("did you mean \"sled\"?")), "{problems:?}");
    let error = ConfigError { file: Some("henge.toml".to_owned()), problems };
    assert!(error.to_string().contains("\n  line 2: cluster.partitions: 100 is no power of two"));
}

#[test]
fn several_syntax_errors_and_garbage_are_problems_not_panics() {
    assert!(parse("[node\nname = \n").is_err());
    assert!(parse("\u{0}\u{1}]]]][[[[= = =").is_err());
    assert!(parse("[node]\nname = \"a\"\nname = \"b\"\n").is_err());
}

#[test]
fn listening_beyond_this_machine_needs_consent() {
    let open = "[listen]\nhttp = \"0.0.0.0:8098\"\n";
    let problems = parse(open).unwrap_err();
    assert_eq!(problems[0].source, Source::Line(2));
    assert!(problems[0].message.contains("listen.insecure = true"), "{problems:?}");
    assert!(parse(&format!("{open}insecure = true\n")).is_ok());
    assert!(parse("[listen]\nhttp = \"[::1]:8098\"\n").is_ok());
    let asks = "[auth]\nenabled = true\n";
    let loaded = parse_with(&format!("{open}{asks}"), &[]).unwrap();
    assert!(loaded.warnings[0].contains("no TLS"), "{:?}", loaded.warnings);
    let peers = "peer = \"10.0.0.1:7000\"\nadvertise_address = \"127.0.0.1:7000\"\n";
    let problems = parse(&format!("{open}{peers}{asks}")).unwrap_err();
    assert!(problems[0].message.starts_with("listen.peer"), "clients are asked, nodes are not");
}

#[test]
fn a_wildcard_peer_door_needs_an_address_for_others() {
    let text = "[listen]\ninsecure = true\npeer = \"0.0.0.0:7000\"\n";
    let problems = parse(text).unwrap_err();
    assert!(problems[0].message.contains("advertise_address"), "{problems:?}");
    assert!(parse(&format!("{text}advertise_address = \"127.0.0.1:7000\"\n")).is_ok());
}

#[test]
fn the_environment_overrides_the_file() {
    let loaded = parse_with(
        "[storage]\ncache_mb = 1\n",
        &[
            ("HENGE_STORAGE_CACHE_MB", "77"),
            ("HENGE_NODE_NAME", "b"),
            ("HENGE_CLUSTER_FOUNDERS", "a=h1:7000, b=127.0.0.1:7000"),
            ("HENGE_LISTEN_INSECURE", "true"),
            ("HENGE_STORAGE_ENGINE", "fjall"),
            ("PATH", "/bin"),
        ],
    )
    .unwrap();
    assert_eq!(loaded.config.storage.cache_mb, 77);
    assert_eq!(loaded.config.cluster.founders.len(), 2);
    assert_eq!(loaded.config.storage.engine, EngineKind::Fjall);
    assert!(loaded.config.listen.insecure);
    assert_eq!(loaded.warnings, Vec::<String>::new());
}

#[test]
fn a_misspelt_variable_of_a_section_is_refused_and_a_foreign_one_only_mentioned() {
    let problems = parse_with("", &[("HENGE_STORAGE_CASHE_MB", "7")]).unwrap_err();
    assert!(problems[0].message.contains("HENGE_STORAGE_CACHE_MB"), "{problems:?}");
    let loaded =
        parse_with("", &[("HENGE_PLANT", "P13"), ("HENGE_SERVICE_HOST", "10.0.0.1")]).unwrap();
    assert_eq!(loaded.warnings.len(), 1);
    assert!(loaded.warnings[0].contains("HENGE_SERVICE_HOST"));
}

#[test]
fn a_bad_override_names_its_variable() {
    let problems = parse_with("", &[("HENGE_CLUSTER_PARTITIONS", "many")]).unwrap_err();
    assert_eq!(problems[0].source, Source::Variable("HENGE_CLUSTER_PARTITIONS".to_owned()));
}

#[test]
fn a_node_that_no_founder_names_is_refused_with_the_line_to_add() {
    let problems = parse("[node]\nname = \"n9\"\n").unwrap_err();
    assert!(problems[0].message.contains("n9=127.0.0.1:7000"), "{problems:?}");
}

#[test]
fn limits_that_cannot_work_together_are_refused() {
    let problems = parse("[limits]\nmax_value_bytes = 33554432\n").unwrap_err();
    assert!(problems[0].message.contains("max_frame_mb to 33"), "{problems:?}");
    assert!(parse("[limits]\npeer_queue_mb = 1\n").is_err());
}

#[test]
fn every_key_is_documented_and_its_variable_is_its_own() {
    let variables: BTreeSet<_> = KEYS.iter().map(KeySpec::variable).collect();
    assert_eq!(variables.len(), KEYS.len());
    for spec in KEYS {
        assert!(!spec.doc.is_empty() && spec.doc.iter().all(|line| line.len() <= 90), "{spec:?}");
        assert!(spec.value(&Config::default()).len() < 80, "{spec:?}");
    }
}

/// What goes on record is what others can dial, never 0.0.0.0.
#[test]
fn a_door_on_all_addresses_is_told_by_one_that_can_be_dialled() {
    let text = "[listen]\ninsecure = true\nhttp = \"0.0.0.0:8098\"\npeer = \"0.0.0.0:7000\"\n\
                advertise_address = \"n1.example:7001\"\n";
    let bound = "0.0.0.0:8098".parse().unwrap();
    let config = parse(text).unwrap();
    assert_eq!(config.http_address(bound), "n1.example:8098");
    let named = parse(&format!("{text}advertise_http = \"web.example:80\"\n")).unwrap();
    assert_eq!(named.http_address(bound), "web.example:80");
    assert_eq!(Config::default().http_address("127.0.0.1:9".parse().unwrap()), "127.0.0.1:9");
    assert!(parse("[listen]\nadvertise_http = \"nowhere\"\n").is_err());
}
