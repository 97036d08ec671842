//! Names of a rule's own at a broker that it shares with others.

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt as _;

use crate::{
    ActionId, Broker, BrokerAdmin, BrokerCapabilities, DeadLetter, DeadLetters, Event, EventId, GroupInfo,
    GroupName, Leased, Pattern, Position, Published, Publisher, Result, Scope, Subscribed, Subscriber,
    Subscription,
};

/// A broker as one sees it who has it alone: what goes in gets the room's name at the end of its action, event id and
/// group name, what comes out loses it, and what has it not is not told. Since a pattern ends in its action's side, a
/// name at its end keeps to the room whatever it matched.
pub(super) struct Room {
    broker: Arc<dyn Broker>,
    name: Arc<str>,
}

impl Room {
    /// A name has no character that means something in a pattern.
    pub(super) fn new(broker: Arc<dyn Broker>, name: &str) -> Self {
        Self { broker, name: name.into() }
    }

    fn enter(&self, text: &str) -> String {
        format!("{text}{}", self.name)
    }

    fn enter_action(&self, action: &ActionId) -> ActionId {
        ActionId::new(self.enter(action.as_str())).unwrap()
    }

    fn enter_group(&self, group: &GroupName) -> GroupName {
        GroupName::new(self.enter(group.as_str())).unwrap()
    }

    fn enter_pattern(&self, pattern: &Pattern) -> Pattern {
        Pattern::new(self.enter(pattern.as_str())).unwrap()
    }

    fn enter_event(&self, mut event: Event) -> Event {
        event.action_id = self.enter_action(&event.action_id);
        event.id = EventId::new(self.enter(event.id.as_str())).unwrap();
        event
    }
}

/// Without the name of the room; `None` where it has another, or none.
fn leave<'a>(text: &'a str, room: &str) -> Option<&'a str> {
    text.strip_suffix(room)
}

/// Ids that the broker made have no room.
fn leave_id(id: &EventId, room: &str) -> EventId {
    leave(id.as_str(), room).map_or_else(|| id.clone(), |id| EventId::new(id).unwrap())
}

fn leave_event(mut event: Event, room: &str) -> Event {
    let action = leave(event.action_id.as_str(), room);
    event.action_id = ActionId::new(action.unwrap_or_else(|| panic!("not of {room}: {event:?}"))).unwrap();
    event.id = leave_id(&event.id, room);
    event.replay_of = event.replay_of.map(|id| leave_id(&id, room));
    event
}

fn leave_group(mut group: GroupInfo, room: &str) -> Option<GroupInfo> {
    group.name = GroupName::new(leave(group.name.as_str(), room)?).unwrap();
    let patterns = group.patterns.iter().map(|pattern| leave(pattern.as_str(), room).unwrap());
    group.patterns = patterns.map(|pattern| Pattern::new(pattern).unwrap()).collect();
    // The name of the room comes into their order.
    group.patterns.sort();
    Some(group)
}

fn leave_letter(mut letter: DeadLetter, room: &str) -> Option<DeadLetter> {
    letter.group = Some(GroupName::new(leave(letter.group?.as_str(), room)?).unwrap());
    letter.id = leave(&letter.id, room).unwrap_or(&letter.id).to_owned();
    letter.action_id = letter.action_id.map(|id| ActionId::new(leave(id.as_str(), room).unwrap()).unwrap());
    let event = leave_event(Event::from_cloud_event(&letter.bytes).unwrap(), room);
    letter.bytes = event.to_cloud_event().unwrap().into_bytes();
    Some(letter)
}

#[async_trait]
impl Publisher for Room {
    async fn publish(&self, events: Vec<Event>) -> Vec<Result<Published>> {
        let events = events.into_iter().map(|event| self.enter_event(event));
        self.broker.publish(events.collect()).await
    }

    async fn close(&self) -> Result<()> {
        self.broker.close().await
    }
}

#[async_trait]
impl Subscriber for Room {
    async fn subscribe(&self, subscription: Subscription) -> Result<Subscribed> {
        let patterns = subscription.patterns().iter().map(|pattern| self.enter_pattern(pattern));
        let mut entered = match subscription.group() {
            None => Subscription::broadcast(patterns)?,
            Some(group) => Subscription::for_group(self.enter_group(&group.name), patterns)?,
        };
        if let Some(group) = subscription.group() {
            entered = entered.with_lease(group.lease)?;
            entered = match &group.stage {
                Some(stage) => entered.with_stage(stage.clone()),
                None => entered,
            };
        }
        let entered = entered.with_start(subscription.start().clone()).with_prefetch(subscription.prefetch());
        let Subscribed { entries, leases, claims } = self.broker.subscribe(entered).await?;
        let room = Arc::clone(&self.name);
        let left = move |leased: Leased| Leased { event: leave_event(leased.event, &room), ..leased };
        let entries = entries.map(move |entry| entry.map(&left)).boxed();
        Ok(Subscribed { entries, leases, claims })
    }
}

#[async_trait]
impl BrokerAdmin for Room {
    async fn groups(&self, scope: &Scope) -> Result<Vec<GroupInfo>> {
        let scope = Scope {
            action: scope.action.as_ref().map(|action| self.enter_action(action)),
            group: scope.group.as_ref().map(|group| self.enter_group(group)),
        };
        let groups = self.broker.groups(&scope).await?;
        Ok(groups.into_iter().filter_map(|group| leave_group(group, &self.name)).collect())
    }

    async fn cancel(&self, action: &ActionId) -> Result<Position> {
        self.broker.cancel(&self.enter_action(action)).await
    }

    async fn remove_group(&self, group: &GroupName) -> Result<bool> {
        self.broker.remove_group(&self.enter_group(group)).await
    }
}

#[async_trait]
impl DeadLetters for Room {
    async fn list(&self, group: Option<&GroupName>, limit: usize) -> Result<Vec<DeadLetter>> {
        let group = group.map(|group| self.enter_group(group));
        // Of all rooms: the limit is one of this room's.
        let letters = self.broker.list(group.as_ref(), 1_000_000).await?;
        let letters = letters.into_iter().filter_map(|letter| leave_letter(letter, &self.name));
        Ok(letters.take(limit).collect())
    }

    async fn replay(&self, id: &str, group: Option<&GroupName>) -> Result<EventId> {
        let group = group.map(|group| self.enter_group(group));
        self.broker.replay(&self.enter(id), group.as_ref()).await
    }
}

impl Broker for Room {
    fn capabilities(&self) -> BrokerCapabilities {
        self.broker.capabilities()
    }
}
