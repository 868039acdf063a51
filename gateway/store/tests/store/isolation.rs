//! Tenant isolation: what PostgreSQL itself enforces, over every table there is.

use crate::fixture::{House, small};
use basalt_model::{Labels, ProjectId, TenantId};
use basalt_store::{
    Error, Feed, Key, New, Options, Page, TenantTx, Update, tasks, tenants,
    testkit::{self, Database},
    vms::{self, PowerVerb},
};
use sqlx::{Connection, Executor, PgConnection, Row};
use std::{collections::BTreeSet, sync::Arc};

async fn tables(conn: &mut PgConnection) -> Vec<(String, bool)> {
    let rows = sqlx::query(
        "SELECT c.relname::text AS name, EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid
            AND a.attname = 'tenant_id' AND NOT a.attisdropped) AS of_tenants
         FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
            AND c.relname <> '_sqlx_migrations' ORDER BY 1",
    )
    .fetch_all(conn)
    .await
    .unwrap();
    rows.iter().map(|r| (r.get("name"), r.get("of_tenants"))).collect()
}

#[tokio::test]
async fn s18_runtime_roles_own_nothing_and_bypass_nothing() {
    let db = Database::new().await;
    let mut admin = db.superuser().await;
    let roles = sqlx::query(
        "SELECT rolname::text AS name, rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication AS mighty,
            rolinherit, rolcanlogin,
            (SELECT count(*) FROM pg_class WHERE relowner = r.oid) + (SELECT count(*) FROM pg_proc WHERE proowner = r.oid)
            AS owned
         FROM pg_roles r WHERE rolname LIKE 'basalt\\_%' ORDER BY 1",
    )
    .fetch_all(&mut admin)
    .await
    .unwrap();
    let names: Vec<String> = roles.iter().map(|r| r.get("name")).collect();
    assert_eq!(names, ["basalt_gateway", "basalt_owner", "basalt_system", "basalt_tenant"]);
    for role in &roles {
        let name: String = role.get("name");
        assert!(!role.get::<bool, _>("mighty"), "{name} may too much");
        assert_eq!(role.get::<i64, _>("owned") > 0, name == "basalt_owner", "{name}");
        assert_eq!(role.get::<bool, _>("rolcanlogin"), name == "basalt_gateway", "{name}");
    }
    assert!(
        !roles[0].get::<bool, _>("rolinherit"),
        "the login has its roles' rights only when it takes them on"
    );
    let members: Vec<String> = sqlx::query_scalar(
        "SELECT r.rolname || ' < ' || m.rolname FROM pg_auth_members a JOIN pg_roles r ON r.oid = a.roleid
         JOIN pg_roles m ON m.oid = a.member WHERE m.rolname LIKE 'basalt\\_%' ORDER BY 1",
    )
    .fetch_all(&mut admin)
    .await
    .unwrap();
    assert_eq!(members, ["basalt_system < basalt_gateway", "basalt_tenant < basalt_gateway"]);
}

#[tokio::test]
async fn s18_every_table_forces_row_security_and_binds_tenants_to_their_rows() {
    let db = Database::new().await;
    let mut admin = db.superuser().await;
    for (table, of_tenants) in tables(&mut admin).await {
        let row = sqlx::query(
            "SELECT relrowsecurity AND relforcerowsecurity AS forced, relkind = 'v' AS is_view,
                coalesce('security_invoker=true' = ANY (reloptions), false) AS as_caller,
                has_table_privilege('basalt_tenant', oid, 'SELECT, INSERT, UPDATE, DELETE') AS reachable,
                has_table_privilege('basalt_tenant', oid, 'DELETE, TRUNCATE') AS removable,
                has_table_privilege('basalt_gateway', oid, 'SELECT, INSERT, UPDATE, DELETE') AS bare,
                (SELECT array_agg(qual || ' / ' || with_check) FROM pg_policies p WHERE p.tablename = relname
                    AND 'basalt_tenant' = ANY (p.roles)) AS rules
             FROM pg_class WHERE oid = $1::text::regclass",
        )
        .bind(&table)
        .fetch_one(&mut admin)
        .await
        .unwrap();
        if row.get::<bool, _>("is_view") {
            // Whoever reads it is bound by the policies of what it reads.
            assert!(row.get::<bool, _>("as_caller"), "{table} is read with its owner's rights");
            assert!(!row.get::<bool, _>("bare"), "the login reaches {table} without a role");
            continue;
        }
        assert!(row.get::<bool, _>("forced"), "{table} does not force row level security");
        assert!(!row.get::<bool, _>("bare"), "the login reaches {table} without a role");
        assert!(!row.get::<bool, _>("removable"), "tenants may delete from {table}");
        if row.get::<bool, _>("reachable") {
            assert!(of_tenants, "tenants reach {table}, which has no tenant");
            let rules: Vec<String> = row.get("rules");
            let rule = "(tenant_id = ( SELECT current_tenant() AS current_tenant))";
            assert_eq!(rules, [format!("{rule} / {rule}")], "{table}");
        }
    }
}

/// Two tenants, each with everything.
async fn two() -> (House, TenantId) {
    let house = House::new().await;
    house.vm("web-1").await;
    let (other, project) = testkit::project(&house.db, &testkit::ids(2), "rival").await;
    let mut tx = house.db.store.tenant(other).await.unwrap();
    let spec = serde_json::from_value(serde_json::json!({"cidr": "10.10.0.0/16"})).unwrap();
    let new = New { name: testkit::name("net"), labels: Labels::default(), spec };
    basalt_store::networks::insert(&mut tx, &house.change(), project, &new).await.unwrap();
    tx.commit().await.unwrap();
    (house, other)
}

#[tokio::test]
async fn s19_without_a_tenant_every_table_shows_zero_rows_and_with_one_only_its_own() {
    let (house, other) = two().await;
    let mut admin = house.db.superuser().await;
    let mut login = PgConnection::connect(&house.db.url()).await.unwrap();
    let mut shown = BTreeSet::new();
    for (table, of_tenants) in tables(&mut admin).await {
        let bare = login.execute(sqlx::AssertSqlSafe(format!("SELECT FROM {table}"))).await;
        assert!(bare.is_err(), "the login reads {table} without a role");
        for tenant in ["", "SET LOCAL app.tenant = '';"] {
            let count = format!("BEGIN; SET LOCAL ROLE basalt_tenant; {tenant}");
            login.execute(sqlx::AssertSqlSafe(count)).await.unwrap();
            let n: Result<i64, _> =
                sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}")))
                    .fetch_one(&mut login)
                    .await;
            // A table that tenants may not read at all shows nothing either.
            assert!(n.as_ref().map_or(true, |n| *n == 0), "{table} shows {n:?} rows with context {tenant:?}");
            login.execute("ROLLBACK").await.unwrap();
        }
        if !of_tenants {
            continue;
        }
        let begin = format!("BEGIN; SET LOCAL ROLE basalt_tenant; SET LOCAL app.tenant = '{}'", house.tenant);
        login.execute(sqlx::AssertSqlSafe(begin)).await.unwrap();
        let count = format!(
            "SELECT count(*) AS all_rows, count(*) FILTER (WHERE tenant_id = '{other}') AS foreign_rows FROM {table}"
        );
        if let Ok(row) = sqlx::query(sqlx::AssertSqlSafe(count)).fetch_one(&mut login).await {
            assert_eq!(row.get::<i64, _>("foreign_rows"), 0, "{table}");
            if row.get::<i64, _>("all_rows") > 0 {
                shown.insert(table.clone());
            }
        }
        login.execute("ROLLBACK").await.unwrap();
    }
    for table in
        ["tenants", "projects", "vms", "volumes", "networks", "images", "ports", "tasks", "audit_events"]
    {
        assert!(shown.contains(table), "{table} shows a tenant its own rows");
    }
}

#[tokio::test]
async fn s19_a_tenant_writes_no_row_of_another() {
    let (house, other) = two().await;
    let mut login = PgConnection::connect(&house.db.url()).await.unwrap();
    let begin = format!("BEGIN; SET LOCAL ROLE basalt_tenant; SET LOCAL app.tenant = '{other}'");
    for (statement, refused) in [
        ("UPDATE vms SET name = 'mine'", false),
        ("UPDATE networks SET tenant_id = (SELECT id FROM tenants LIMIT 1)", false),
        ("INSERT INTO audit_events SELECT gen_random_uuid(), now(), gen_random_uuid(), NULL, '', gen_random_uuid(), '', '',
            '', gen_random_uuid(), '', NULL", true),
        ("DELETE FROM vms", true),
        ("UPDATE placements SET epoch = 9", true),
        ("SELECT * FROM hosts", true),
        ("INSERT INTO change_log (xid, source, key, op) VALUES ('1', 'vms', '', 'reload')", true),
    ] {
        login.execute(sqlx::AssertSqlSafe(begin.clone())).await.unwrap();
        assert_eq!(login.execute(statement).await.is_err(), refused, "{statement}");
        let names: Vec<String> = sqlx::query_scalar("SELECT 'x' || name FROM vms").fetch_all(&mut login).await.unwrap_or_default();
        assert!(names.is_empty());
        login.execute("ROLLBACK").await.unwrap();
    }
}

#[tokio::test]
async fn s19_role_and_tenant_end_with_the_transaction() {
    let db = Database::with(Options { max_connections: 1, ..Options::default() }).await;
    let (tenant, _) = testkit::project(&db, &testkit::ids(7), "acme").await;
    let nobodys = ("none".to_string(), String::new());
    // There is one connection: whoever comes next gets the same.
    db.store.tenant(tenant).await.unwrap().commit().await.unwrap();
    assert_eq!(db.left_behind().await, nobodys, "after a commit");
    drop(db.store.tenant(tenant).await.unwrap());
    assert_eq!(db.left_behind().await, nobodys, "after a rollback");
    drop(db.store.system().await.unwrap());
    assert_eq!(db.left_behind().await, nobodys, "after the system");
}

/// Waits until so many transactions of the system are begun and have no snapshot.
async fn begun(admin: &mut PgConnection, wanted: i64) {
    let idle =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_xmin IS NULL
        AND state = 'idle in transaction' AND query LIKE 'BEGIN%basalt_system%'";
    let mut seen = -1;
    for _ in 0..200 {
        seen = sqlx::query_scalar(idle).fetch_one(&mut *admin).await.unwrap();
        if seen == wanted {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{seen} are begun, not {wanted}");
}

#[tokio::test]
async fn s19_a_transaction_begun_ahead_sees_what_came_after_its_beginning_and_is_given_back() {
    let h = House::new().await;
    let (store, mut admin) = (h.db.store.clone(), h.db.superuser().await);
    let keeper = tokio::spawn({
        let store = store.clone();
        async move { store.keep_begun().await }
    });
    let feed = Feed::new(&store);
    let mut cursor = feed.bootstrap().await.unwrap().cursor;
    for n in 0..5 {
        begun(&mut admin, 3).await;
        let vm = h.vm(&format!("vm-{n}")).await.object;
        let batch = feed.pull(&cursor).await.unwrap();
        assert!(batch.changes.iter().any(|c| c.key == vm.id().to_string()), "the newest is seen");
        cursor = batch.cursor;
    }
    begun(&mut admin, 3).await;
    let mut tx = store.system_ahead().await.unwrap();
    tenants::insert(&mut tx, &h.change(), &testkit::name("beside"), &Labels::default()).await.unwrap();
    tx.commit().await.unwrap();
    let all = tenants::list(&mut store.system_read().await.unwrap(), &Page::default()).await.unwrap();
    assert!(all.items.iter().any(|t| t.metadata.name.as_str() == "beside"), "it writes as the system");
    keeper.abort();
    begun(&mut admin, 0).await;
}

#[tokio::test]
async fn s19_a_stamp_shows_a_tenant_its_own_vms_only_and_leaves_no_tenant_behind() {
    let house = House::on(Database::with(Options { max_connections: 1, ..Options::default() }).await).await;
    let vm = house.vm("web-1").await.object;
    let (other, _) = testkit::project(&house.db, &testkit::ids(2), "rival").await;
    let (store, project, page) = (&house.db.store, house.project, Page::default());
    let wanted = (vm.id(), vm.metadata.generation);
    for key in [Key::from(vm.id()), Key::parse("vm", "web-1").unwrap()] {
        assert_eq!(vms::stamp(store, house.tenant, project, &key).await.unwrap(), Some(wanted));
        assert_eq!(vms::stamp(store, other, project, &key).await.unwrap(), None, "another tenant");
        assert_eq!(vms::stamp(store, house.tenant, ProjectId((house.ids)()), &key).await.unwrap(), None);
    }
    let mine = vms::stamps(store, house.tenant, project, &page).await.unwrap().unwrap();
    assert_eq!(mine.items, [wanted]);
    assert!(vms::stamps(store, other, project, &page).await.unwrap().unwrap().items.is_empty());
    assert_eq!(house.db.left_behind().await, ("none".to_string(), String::new()));
}

#[tokio::test]
async fn s2_another_tenants_object_and_none_at_all_answer_alike() {
    let (house, other) = two().await;
    let mut tx = house.db.store.tenant(other).await.unwrap();
    let vm = house.vm("web-2").await;
    let (theirs, nobodys) = (Key::from(vm.object.id()), Key::Id((house.ids)()));
    let c = house.change();
    let p = house.project;
    for (a, b) in [
        (vms::get(&mut tx, p, &theirs).await.err(), vms::get(&mut tx, p, &nobodys).await.err()),
        (
            vms::set_power(&mut tx, &c, p, &theirs, None, PowerVerb::Stop).await.err(),
            vms::set_power(&mut tx, &c, p, &nobodys, None, PowerVerb::Stop).await.err(),
        ),
        (
            vms::delete(&mut tx, &c, p, &theirs, None).await.err(),
            vms::delete(&mut tx, &c, p, &nobodys, None).await.err(),
        ),
        (
            vms::update(&mut tx, &c, p, &theirs, &Update { expected: None, labels: None, spec: small() })
                .await
                .err(),
            vms::update(&mut tx, &c, p, &nobodys, &Update { expected: None, labels: None, spec: small() })
                .await
                .err(),
        ),
        (
            tasks::get(&mut tx, vm.task.id).await.err(),
            tasks::get(&mut tx, basalt_model::TaskId((house.ids)())).await.err(),
        ),
    ] {
        let said = |e: Option<Error>, key: &str| match e {
            Some(Error::NotFound { kind, name }) => (kind, name.replace(key, "?")),
            other => panic!("{other:?}"),
        };
        let task = vm.task.id.to_string();
        let (a, b) = (said(a, &theirs.to_string()), said(b, &nobodys.to_string()));
        assert_eq!((a.0, a.1.len()), (b.0, if a.1 == task { task.len() } else { b.1.len() }));
    }
    assert!(vms::list(&mut tx, p, &Page::default()).await.unwrap().items.is_empty());
    let new = New { name: testkit::name("spy"), labels: Labels::default(), spec: small() };
    let e = vms::insert(&mut tx, &c, p, &new).await.unwrap_err();
    assert!(matches!(e, Error::ReferenceNotFound { .. } | Error::NotFound { .. }), "{e}");
}

/// What a transaction sees of the tenants: exactly one, its own.
async fn sees(tx: &mut TenantTx, mine: TenantId) {
    let seen = basalt_store::tenants::list(tx, &Page::default()).await.unwrap().items;
    assert_eq!(seen.iter().map(|t| t.id()).collect::<Vec<_>>(), [mine]);
}

/// Transactions of several tenants over two connections, ended in every way there is: commit, drop, cancelled at
/// BEGIN, cancelled in a statement, a panic, a failed statement. `BASALT_S20_ROUNDS` sets how many.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s20_reused_connections_never_show_the_tenant_before() {
    let rounds: u64 = std::env::var("BASALT_S20_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(4000);
    let db = Arc::new(Database::with(Options { max_connections: 2, ..Options::default() }).await);
    let mut tenants = Vec::new();
    for i in 0..3 {
        tenants.push(testkit::project(&db, &testkit::ids(10 + i), &format!("tenant-{i}")).await.0);
    }
    let workers = (0..4u64).map(|worker| {
        let (db, store, tenants) = (db.clone(), db.store.clone(), tenants.clone());
        tokio::spawn(async move {
            let mut random = 0x9e37_79b9_7f4a_7c15u64.wrapping_mul(worker + 1);
            for _ in 0..rounds / 4 {
                // xorshift: the same interleaving choices in every run of one worker.
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let mine = tenants[(random >> 8) as usize % tenants.len()];
                let patience = std::time::Duration::from_micros((random >> 16) % 400);
                let begun = store.clone();
                match random % 8 {
                    0 => drop(tokio::time::timeout(patience, begun.tenant(mine)).await),
                    1 => {
                        let mut tx = begun.tenant(mine).await.unwrap();
                        sees(&mut tx, mine).await;
                        tx.commit().await.unwrap();
                    }
                    2 => {
                        let mut tx = begun.tenant_read(mine).await.unwrap();
                        sees(&mut tx, mine).await;
                    }
                    3 => {
                        let mut tx = begun.tenant(mine).await.unwrap();
                        drop(tokio::time::timeout(patience, sees(&mut tx, mine)).await);
                    }
                    4 => {
                        let panics = tokio::spawn(async move {
                            let mut tx = begun.tenant(mine).await.unwrap();
                            sees(&mut tx, mine).await;
                            std::panic::resume_unwind(Box::new("as planned"));
                        });
                        assert!(panics.await.unwrap_err().is_panic());
                    }
                    5 => {
                        // A statement that fails in the middle of the transaction.
                        let mut tx = begun.tenant(mine).await.unwrap();
                        let change = testkit::change(&testkit::ids(99));
                        let entry = basalt_store::audit_events::Entry::new(
                            "x",
                            Some(TenantId((change.ids)())),
                            None,
                            "x",
                            mine.0,
                            "x",
                        );
                        assert!(basalt_store::audit_events::record(&mut tx, &change, entry).await.is_err());
                    }
                    6 => assert_eq!(db.left_behind().await, ("none".to_string(), String::new())),
                    _ => {
                        let mut tx = begun.system().await.unwrap();
                        let all = basalt_store::tenants::list(&mut tx, &Page::default()).await.unwrap().items;
                        assert_eq!(all.len(), tenants.len());
                    }
                }
            }
        })
    });
    for worker in futures::future::join_all(workers).await {
        worker.unwrap();
    }
}
