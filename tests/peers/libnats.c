// The conversation of tests/e2e/test_peers.py in NATS's client for C.
#include <nats/nats.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const int64_t patience = 20000; // ms
static natsConnection *connection;

static void check(natsStatus status, const char *what) {
    if (status != NATS_OK) {
        fprintf(stderr, "%s: %s\n", what, natsStatus_GetText(status));
        exit(1);
    }
}

static void say_text(const char *step, const char *answer) {
    printf("{\"step\":\"%s\",\"answer\":\"%s\"}\n", step, answer);
}

static void say_number(const char *step, int answer) { printf("{\"step\":\"%s\",\"answer\":%d}\n", step, answer); }

static int occurrences(const char *text, const char *part) {
    int count = 0;
    for (const char *at = text; (at = strstr(at, part)) != NULL; at += strlen(part)) count++;
    return count;
}

// Sends a request whose answer is a stream, and says its text, which an empty message ends.
static void stream(const char *step, const char *subject, const char *payload, const char *id) {
    natsInbox *inbox = NULL;
    natsSubscription *subscription = NULL;
    natsMsg *message = NULL;
    char text[4096] = "";
    check(natsInbox_Create(&inbox), "inbox");
    check(natsConnection_SubscribeSync(&subscription, connection, inbox), "subscribe");
    check(natsMsg_Create(&message, subject, inbox, payload, (int)strlen(payload)), "message");
    if (id != NULL) check(natsMsgHeader_Set(message, "Nats-Msg-Id", id), "header");
    check(natsConnection_PublishMsg(connection, message), "publish");
    natsMsg_Destroy(message);
    for (;;) {
        check(natsSubscription_NextMsg(&message, subscription, patience), "next");
        int length = natsMsg_GetDataLength(message);
        if (length > 0) strncat(text, natsMsg_GetData(message), sizeof text - strlen(text) - 1);
        natsMsg_Destroy(message);
        if (length == 0) break;
    }
    say_text(step, text);
    natsSubscription_Destroy(subscription);
    natsInbox_Destroy(inbox);
}

static natsMsg *request(const char *subject, const char *payload) {
    natsMsg *answer = NULL;
    check(natsConnection_RequestString(&answer, connection, subject, payload, patience), subject);
    return answer;
}

// Asks all services, whose answers are complete when as many as were wanted have come.
static int ask_services(const char *subject, int wanted) {
    natsInbox *inbox = NULL;
    natsSubscription *subscription = NULL;
    natsMsg *message = NULL;
    check(natsInbox_Create(&inbox), "inbox");
    check(natsConnection_SubscribeSync(&subscription, connection, inbox), "subscribe");
    check(natsConnection_PublishRequest(connection, subject, inbox, NULL, 0), "publish");
    int found = 0;
    while (found < wanted && natsSubscription_NextMsg(&message, subscription, patience) == NATS_OK) {
        found += occurrences(natsMsg_GetData(message), "\"name\":\"pi-exec\"");
        natsMsg_Destroy(message);
    }
    natsSubscription_Destroy(subscription);
    natsInbox_Destroy(inbox);
    return found;
}

int main(int count, char **arguments) {
    if (count != 4) return 64;
    const char *owner = arguments[2], *cwd = arguments[3];
    char intake[256], session[300], payload[2048];
    snprintf(intake, sizeof intake, "agents.pi-exec.%s", owner);
    snprintf(session, sizeof session, "%s.peer", intake);
    check(natsConnection_ConnectTo(&connection, arguments[1]), "connect");

    natsMsg *answer = request(intake, "{\"sessionMode\":\"list\"}");
    say_number("list", occurrences(natsMsg_GetData(answer), "\"sessionId\""));
    natsMsg_Destroy(answer);

    snprintf(payload, sizeof payload, "{\"sessionMode\":\"session\",\"sessionId\":\"peer\",\"body\":\"hi\",\"cwd\":\"%s\"}", cwd);
    stream("stream", intake, payload, NULL);
    stream("headers", session, "again", "once");

    answer = request(intake, "{\"sessionMode\":\"stop\",\"sessionId\":\"nobody\"}");
    const char *code = NULL;
    check(natsMsgHeader_Get(answer, "Nats-Service-Error-Code", &code), "code");
    say_text("error", code);
    natsMsg_Destroy(answer);

    natsStatus status = natsConnection_RequestString(&answer, connection, "nobody.there", "", patience);
    say_text("no responders", status == NATS_NO_RESPONDERS ? "none" : natsStatus_GetText(status));

    say_number("services", ask_services("$SRV.INFO.pi-exec", 2));
    printf("{\"step\":\"counted\",\"answer\":%s}\n", ask_services("$SRV.STATS.pi-exec", 2) == 2 ? "true" : "false");

    natsSubscription *members[2] = {NULL, NULL};
    for (int i = 0; i < 2; i++) check(natsConnection_QueueSubscribeSync(&members[i], connection, "peer.*", "q"), "queue");
    for (int i = 0; i < 10; i++) {
        snprintf(payload, sizeof payload, "peer.%d", i);
        check(natsConnection_PublishString(connection, payload, ""), "publish");
    }
    check(natsConnection_Flush(connection), "flush");
    int shared = 0;
    for (int i = 0; i < 2; i++) {
        natsMsg *message = NULL;
        while (natsSubscription_NextMsg(&message, members[i], 0) == NATS_OK) {
            shared++;
            natsMsg_Destroy(message);
        }
        natsSubscription_Destroy(members[i]);
    }
    say_number("queue group", shared);
    natsConnection_Destroy(connection);
    nats_Close();
    return 0;
}
