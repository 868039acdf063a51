//! People, tokens, roles, idempotency keys and leases.

use crate::fixture::House;
use basalt_model::{
    ProjectId, TenantId, UserId,
    roles::{Grant, Role, Scope},
};
use basalt_store::{
    Error, Key, Page, Store,
    idempotency::{self, Begin},
    leases, projects, role_bindings, service_tokens, tenants,
    testkit::{self, name, now},
    users,
};
use chrono::TimeDelta;
use serde_json::json;
use sqlx::Executor;

#[tokio::test]
async fn s17_the_first_boot_token_works_once_before_its_end_and_while_nobody_is_known() {
    let h = House::new().await;
    let mut tx = h.db.store.system().await.unwrap();
    let soon = now() + TimeDelta::minutes(10);
    users::put_first_boot_token(&mut tx, b"first", soon, now()).await.unwrap();
    users::put_first_boot_token(&mut tx, b"second", soon, now()).await.unwrap();
    for (hash, at) in [(b"first".as_slice(), now()), (b"wrong", now()), (b"second", soon)] {
        assert!(matches!(
            users::redeem_first_boot_token(&mut tx, hash, at).await.unwrap_err(),
            Error::TokenInvalid
        ));
    }
    users::redeem_first_boot_token(&mut tx, b"second", now()).await.unwrap();
    assert!(users::redeem_first_boot_token(&mut tx, b"second", now()).await.is_err());
    users::put_first_boot_token(&mut tx, b"third", soon, now()).await.unwrap();
    users::insert(&mut tx, &h.change(), &name("root"), "$argon2id$").await.unwrap();
    assert!(users::redeem_first_boot_token(&mut tx, b"third", now()).await.is_err());
}

#[tokio::test]
async fn tokens_speak_for_their_principal_until_they_end() {
    let h = House::new().await;
    let c = h.change();
    let mut tx = h.db.store.system().await.unwrap();
    let user = users::insert(&mut tx, &c, &name("ada"), "$argon2id$").await.unwrap();
    let e = users::insert(&mut tx, &c, &name("ada"), "").await.unwrap_err();
    assert!(matches!(e, Error::NameTaken { kind: "user", .. }));
    drop(tx);
    let mut tx = h.db.store.system().await.unwrap();
    let user = match users::get(&mut tx, &Key::from(user.id)).await {
        Ok(user) => user,
        Err(_) => users::insert(&mut tx, &c, &name("ada"), "$argon2id$").await.unwrap(),
    };
    let grant =
        Grant { role: Role::Operator, scope: Scope::Project { tenant_id: h.tenant, project_id: h.project } };
    let bound = role_bindings::insert(&mut tx, &c, user.id.0, grant).await.unwrap();
    assert_eq!(role_bindings::insert(&mut tx, &c, user.id.0, grant).await.unwrap(), bound, "given once");
    let ends = now() + TimeDelta::hours(1);
    let new =
        service_tokens::New { name: &user.name, hash: b"session", user_id: Some(user.id), expires_at: ends };
    let session = service_tokens::insert(&mut tx, &c, &new).await.unwrap();
    let found = service_tokens::authenticate(&mut tx, b"session", now()).await.unwrap().unwrap();
    assert_eq!((found.kind, found.id, found.grants.as_slice()), ("user", user.id.0, [grant].as_slice()));
    assert_eq!(service_tokens::authenticate(&mut tx, b"session", ends).await.unwrap(), None);
    assert_eq!(service_tokens::authenticate(&mut tx, b"other", now()).await.unwrap(), None);
    assert!(
        service_tokens::list(&mut tx, &Page::default()).await.unwrap().items.is_empty(),
        "sessions are left out"
    );
    service_tokens::revoke(&mut tx, &c, session.id).await.unwrap();
    assert_eq!(service_tokens::authenticate(&mut tx, b"session", now()).await.unwrap(), None);
    role_bindings::delete(&mut tx, &c, bound.id).await.unwrap();
    assert!(role_bindings::grants(&mut tx, user.id.0).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_new_password_ends_every_session() {
    let h = House::new().await;
    let c = h.change();
    let mut tx = h.db.store.system().await.unwrap();
    let user = users::insert(&mut tx, &c, &name("ada"), "old").await.unwrap();
    let expires_at = now() + TimeDelta::hours(1);
    let new = service_tokens::New { name: &user.name, hash: b"s", user_id: Some(user.id), expires_at };
    service_tokens::insert(&mut tx, &c, &new).await.unwrap();
    users::set_password(&mut tx, &c, &Key::from(user.id), "new").await.unwrap();
    assert_eq!(users::by_name(&mut tx, &user.name).await.unwrap().unwrap().1, "new");
    assert_eq!(service_tokens::authenticate(&mut tx, b"s", now()).await.unwrap(), None);
}

#[tokio::test]
async fn a_repeated_request_gets_the_first_answer_and_another_body_is_refused() {
    let h = House::new().await;
    let who = (h.ids)();
    let answer = json!({"object": 1});
    let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
    let begun = idempotency::begin(&mut tx, Some(h.tenant), who, "k", b"body", now()).await.unwrap();
    assert_eq!(begun, Begin::Fresh);
    idempotency::finish(&mut tx, who, "k", 202, Some("/v1/tasks/1"), &answer).await.unwrap();
    // A twin that arrives meanwhile waits for this one.
    let store = h.db.store.clone();
    let tenant = h.tenant;
    let twin = tokio::spawn(async move {
        let mut tx = store.tenant(tenant).await.unwrap();
        idempotency::begin(&mut tx, Some(tenant), who, "k", b"body", now()).await.unwrap()
    });
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    assert!(!twin.is_finished());
    tx.commit().await.unwrap();
    let location = Some("/v1/tasks/1".to_string());
    assert_eq!(twin.await.unwrap(), Begin::Replay { status: 202, location, body: answer });
    let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
    let e = idempotency::begin(&mut tx, Some(h.tenant), who, "k", b"other", now()).await.unwrap_err();
    assert!(matches!(e, Error::IdempotencyReused { .. }));
    let mut tx = h.db.store.system().await.unwrap();
    assert_eq!(idempotency::prune(&mut tx, now() + TimeDelta::seconds(1)).await.unwrap(), 1);
}

#[tokio::test]
async fn a_lease_has_one_holder_and_a_new_epoch_for_each() {
    let h = House::new().await;
    let (a, b) = ((h.ids)(), (h.ids)());
    let mut tx = h.db.store.system().await.unwrap();
    let first = leases::acquire(&mut tx, "writer", a, now(), 10, None).await.unwrap().unwrap();
    assert_eq!(leases::acquire(&mut tx, "writer", b, now(), 10, None).await.unwrap(), None);
    let renewed = leases::acquire(&mut tx, "writer", a, now() + TimeDelta::seconds(5), 10, None)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(renewed.epoch, first.epoch);
    let late = now() + TimeDelta::seconds(60);
    let second = leases::acquire(&mut tx, "writer", b, late, 10, None).await.unwrap().unwrap();
    assert!(second.epoch > first.epoch);
    leases::release(&mut tx, &renewed, late).await.unwrap();
    assert_eq!(
        leases::acquire(&mut tx, "writer", a, late, 10, None).await.unwrap(),
        None,
        "releasing a lost lease does nothing"
    );
    leases::release(&mut tx, &second, late).await.unwrap();
    assert!(
        leases::acquire(&mut tx, "writer", a, late, 10, None).await.unwrap().unwrap().epoch > second.epoch
    );
}

#[tokio::test]
async fn r40_a_lease_that_does_not_move_is_over_whatever_the_clock_that_wrote_it_said() {
    let h = House::new().await;
    let (a, b) = ((h.ids)(), (h.ids)());
    let mut tx = h.db.store.system().await.unwrap();
    // Its clock is an hour before.
    let ahead = now() + TimeDelta::hours(1);
    leases::acquire(&mut tx, "writer", a, ahead, 10, None).await.unwrap().unwrap();
    let later = now() + TimeDelta::minutes(5);
    assert_eq!(leases::acquire(&mut tx, "writer", b, later, 10, None).await.unwrap(), None);
    let seen = leases::held(&mut tx, "writer").await.unwrap().unwrap();
    // It moved meanwhile: its holder lives.
    let renewed =
        leases::acquire(&mut tx, "writer", a, ahead + TimeDelta::seconds(1), 10, None).await.unwrap();
    assert_eq!(leases::acquire(&mut tx, "writer", b, later, 10, Some(&seen)).await.unwrap(), None);
    let seen = leases::held(&mut tx, "writer").await.unwrap();
    assert_eq!(seen, renewed);
    let taken = leases::acquire(&mut tx, "writer", b, later, 10, seen.as_ref()).await.unwrap().unwrap();
    assert_eq!((taken.holder, taken.epoch), (b, seen.unwrap().epoch + 1));
}

#[tokio::test]
async fn tenants_and_projects_that_hold_something_stay() {
    let h = House::new().await;
    let c = h.change();
    let mut tx = h.db.store.system().await.unwrap();
    let e = tenants::delete(&mut tx, &c, &Key::from(h.tenant)).await.unwrap_err();
    assert!(matches!(&e, Error::InUse { kind: "tenant", by, .. } if by == &["project/main"]), "{e}");
    let e = projects::delete(&mut tx, &c, h.project).await.unwrap_err();
    assert!(matches!(&e, Error::InUse { kind: "project", by, .. } if by.len() == 2), "{e}");
    let empty =
        projects::insert(&mut tx, &c, h.tenant, &name("empty"), &Default::default(), None).await.unwrap();
    projects::delete(&mut tx, &c, empty.id()).await.unwrap();
    let e = projects::insert(&mut tx, &c, TenantId((h.ids)()), &name("x"), &Default::default(), None).await;
    assert!(matches!(e.unwrap_err(), Error::NotFound { kind: "tenant", .. }));
}

#[tokio::test]
async fn s4_a_role_is_given_in_a_project_only_beside_the_tenant_that_the_project_is_of() {
    let h = House::new().await;
    let c = h.change();
    let (other, theirs) = testkit::project(&h.db, &testkit::ids(2), "rival").await;
    let mut tx = h.db.store.system().await.unwrap();
    let user = users::insert(&mut tx, &c, &name("ada"), "").await.unwrap();
    tx.commit().await.unwrap();
    let give = async |tenant_id, project_id| {
        let mut tx = h.db.store.system().await.unwrap();
        let grant = Grant { role: Role::Viewer, scope: Scope::Project { tenant_id, project_id } };
        let given = role_bindings::insert(&mut tx, &c, user.id.0, grant).await;
        tx.commit().await.unwrap();
        given
    };
    let e = give(h.tenant, theirs).await.unwrap_err();
    assert!(
        matches!(e, Error::ProjectElsewhere { project, tenant } if (project, tenant) == (theirs, h.tenant))
    );
    assert_eq!(e.to_string(), format!("project {theirs} is not of tenant {}", h.tenant));
    let nowhere = ProjectId((h.ids)());
    assert!(matches!(give(h.tenant, nowhere).await.unwrap_err(), Error::NotFound { kind: "project", .. }));
    give(other, theirs).await.unwrap();
    // Whoever writes past this crate is refused by the database.
    let mut admin = h.db.superuser().await;
    let forged = sqlx::query(FORGE).bind((h.ids)()).bind(user.id.0).bind(h.tenant).bind(theirs);
    let e = forged.execute(&mut admin).await.unwrap_err();
    assert_eq!(e.as_database_error().unwrap().constraint(), Some("role_bindings_project_of_tenant"));
}

const FORGE: &str = "INSERT INTO role_bindings (id, principal_id, role, tenant_id, project_id, created_at) VALUES ($1, $2, 'viewer', $3, $4, now())";

#[tokio::test]
async fn bindings_that_name_another_tenant_than_their_projects_are_put_right_by_the_migration() {
    let h = House::new().await;
    let (other, theirs) = testkit::project(&h.db, &testkit::ids(2), "rival").await;
    let mut admin = h.db.superuser().await;
    admin
        .execute(
            "ALTER TABLE role_bindings DROP CONSTRAINT role_bindings_project_of_tenant,
                ADD CONSTRAINT role_bindings_project FOREIGN KEY (project_id) REFERENCES projects;
             DELETE FROM _sqlx_migrations WHERE description = 'role binding pairs'",
        )
        .await
        .unwrap();
    // One alone, and one beside its right form.
    let (ada, bob) = (UserId((h.ids)()), UserId((h.ids)()));
    for (user, tenant) in [(ada, h.tenant), (bob, h.tenant), (bob, other)] {
        let forged = sqlx::query(FORGE).bind((h.ids)()).bind(user.0).bind(tenant).bind(theirs);
        forged.execute(&mut admin).await.unwrap();
    }
    Store::migrate(&h.db.owner_url()).await.unwrap();
    h.db.store.ready().await.unwrap();
    let mut tx = h.db.store.system_read().await.unwrap();
    for user in [ada, bob] {
        let scope = Scope::Project { tenant_id: other, project_id: theirs };
        let grants = role_bindings::grants(&mut tx, user.0).await.unwrap();
        assert_eq!(grants, [Grant { role: Role::Viewer, scope }]);
    }
}
