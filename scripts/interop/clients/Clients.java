import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.ExecutionException;
import java.util.function.BooleanSupplier;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.Config;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.ConsumerGroupDescription;
import org.apache.kafka.clients.admin.GroupListing;
import org.apache.kafka.clients.admin.ListConsumerGroupOffsetsSpec;
import org.apache.kafka.clients.admin.ListGroupsOptions;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.GroupState;
import org.apache.kafka.common.GroupType;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.GroupNotEmptyException;
import org.apache.kafka.common.errors.InvalidProducerEpochException;
import org.apache.kafka.common.errors.ProducerFencedException;
import org.apache.kafka.common.errors.SecurityDisabledException;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Groups of both protocols, transactions and the calls of admin consoles, through Apache Kafka's own Java client.
 *
 * <p>Called with the broker's address and a name that no earlier run had. Prints one line for each check,
 * {@code pass NAME} or {@code FAIL NAME: WHY}, and {@code end} last.
 */
public final class Clients {
    private static final Duration SOON = Duration.ofMillis(100);
    private static final long PATIENCE_MS = 60_000;

    private static String bootstrap;
    private static String run;
    private static Admin admin;

    private interface Check {
        void run() throws Exception;
    }

    private Clients() {}

    public static void main(String[] args) throws Exception {
        bootstrap = args[0];
        run = args[1];
        admin = Admin.create(common());
        for (String protocol : List.of("classic", "consumer")) {
            check("group " + protocol + ": shared out, taken over, resumed", () -> group(protocol));
            check("group " + protocol + ": a static member comes back unnoticed", () -> staticMember(protocol));
        }
        check("group: from classic to consumer and back, online", Clients::conversion);
        check("group consumer: a broker-side regex follows new topics", Clients::regex);
        check("transactions: commit, abort, read_committed", Clients::commitAndAbort);
        check("transactions: an open one holds readers back", Clients::openTransaction);
        check("transactions: a fenced producer leaves nothing", Clients::fencing);
        for (String protocol : List.of("classic", "consumer")) {
            check("transactions: offsets with the records, group " + protocol, () -> offsetsInTransaction(protocol));
        }
        check("transactions: one that is left alone ends by itself", Clients::timeout);
        check("console: cluster, brokers, log directories", Clients::consoleCluster);
        check("console: topics, partitions, configs", Clients::consoleTopics);
        check("console: messages by partition, offset and time", Clients::consoleMessages);
        check("console: groups, lag, offsets set back", Clients::consoleGroups);
        check("console: producers, transactions, quotas, ACLs, features", Clients::consoleRest);
        System.out.println("end");
        System.exit(0);
    }

    private static void check(String name, Check check) {
        String only = System.getenv("INTEROP_ONLY");
        if (only != null && !only.isEmpty() && !java.util.regex.Pattern.compile(only).matcher("java: " + name).find()) {
            return;
        }
        try {
            check.run();
            System.out.println("pass " + name);
        } catch (Throwable e) {
            StackTraceElement at = Arrays.stream(e.getStackTrace())
                    .filter(frame -> frame.getClassName().startsWith("Clients"))
                    .findFirst()
                    .orElse(null);
            System.out.println("FAIL " + name + ": " + String.valueOf(e).replace('\n', ' ') + " at " + at);
        }
        System.out.flush();
    }

    // --- groups ------------------------------------------------------------------------------------------------

    /** A member of a group, with what it has read and owns. */
    private static final class Member implements AutoCloseable {
        final KafkaConsumer<String, String> consumer;
        final List<String> read = new ArrayList<>();
        int revoked;
        int lost;

        Member(Map<String, Object> settings, String... topics) {
            consumer = new KafkaConsumer<>(settings);
            consumer.subscribe(Arrays.asList(topics), new ConsumerRebalanceListener() {
                @Override
                public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
                    revoked += partitions.size();
                    consumer.commitSync(); // so that nothing is read again
                }

                @Override
                public void onPartitionsLost(Collection<TopicPartition> partitions) {
                    lost += partitions.size();
                }

                @Override
                public void onPartitionsAssigned(Collection<TopicPartition> partitions) {}
            });
        }

        int owns() {
            return consumer.assignment().size();
        }

        void poll() {
            consumer.poll(SOON).forEach(record -> read.add(record.value()));
        }

        @Override
        public void close() {
            consumer.close();
        }
    }

    private static void group(String protocol) throws Exception {
        String topic = topic("group-" + protocol, 6);
        String group = "g-" + protocol + "-" + run;
        produce(topic, 6, 0, 600);
        Map<String, Object> settings = consumerSettings(group, protocol);
        List<Member> members = new ArrayList<>();
        for (int i = 0; i < 3; i++) {
            members.add(new Member(settings, topic));
        }
        settle(members, topic, 6, 2);
        Member left = members.remove(2);
        left.consumer.commitSync();
        left.close();
        settle(members, topic, 6, 3);
        produce(topic, 6, 600, 1200);
        until("all is read", members, () -> members.stream().mapToInt(m -> m.read.size()).sum() + left.read.size() >= 1200);
        List<String> read = new ArrayList<>(left.read);
        members.forEach(member -> read.addAll(member.read));
        same("each record once", read.stream().sorted().toList(), List.copyOf(numbers(0, 1200)));
        members.forEach(member -> member.consumer.commitSync());
        ConsumerGroupDescription described = describe(group);
        same("state", described.groupState(), GroupState.STABLE);
        same("type", described.type(), protocol.equals("classic") ? GroupType.CLASSIC : GroupType.CONSUMER);
        same("members", described.members().size(), 2);
        members.forEach(Member::close);
        same("committed", committed(group), positions(topic, 6, 200));
        produce(topic, 6, 1200, 1260);
        try (Member next = new Member(settings, topic)) {
            until("the rest is read", List.of(next), () -> next.read.size() >= 60);
            same("only the rest", next.read.stream().sorted().toList(), List.copyOf(numbers(1200, 1260)));
        }
        eventually("an empty group", () -> describe(group).groupState() == GroupState.EMPTY);
        admin.deleteConsumerGroups(List.of(group)).all().get();
        eventually("the group is gone", () -> listed(new ListGroupsOptions()).stream().noneMatch(l -> l.groupId().equals(group)));
    }

    private static void staticMember(String protocol) throws Exception {
        String topic = topic("static-" + protocol, 4);
        String group = "static-" + protocol + "-" + run;
        Map<String, Object> first = consumerSettings(group, protocol);
        first.put("group.instance.id", "one");
        Map<String, Object> second = consumerSettings(group, protocol);
        second.put("group.instance.id", "two");
        Member one = new Member(first, topic);
        try (Member two = new Member(second, topic)) {
            settle(List.of(one, two), topic, 4, 2);
            Set<TopicPartition> before = one.consumer.assignment();
            int revoked = two.revoked;
            // a static member does not leave with its consumer
            one.close();
            try (Member again = new Member(first, topic)) {
                settle(List.of(again, two), topic, 4, 2);
                same("what it had", again.consumer.assignment(), before);
                same("revoked from the other", two.revoked, revoked);
            }
            same("it is still a member", describe(group).members().size(), 2);
        }
    }

    private static void conversion() throws Exception {
        String topic = topic("convert", 4);
        String group = "convert-" + run;
        produce(topic, 4, 0, 40);
        try (Member old = new Member(consumerSettings(group, "classic"), topic)) {
            until("the classic member reads", List.of(old), () -> old.read.size() >= 40);
            old.consumer.commitSync();
            same("type", describe(group).type(), GroupType.CLASSIC);
            Member young = new Member(consumerSettings(group, "consumer"), topic);
            settle(List.of(old, young), topic, 4, 2);
            same("type", describe(group).type(), GroupType.CONSUMER);
            produce(topic, 4, 40, 80);
            until("both read", List.of(old, young), () -> old.read.size() + young.read.size() >= 80);
            List<String> all = new ArrayList<>(old.read);
            all.addAll(young.read);
            same("each record once", all.stream().sorted().toList(), List.copyOf(numbers(0, 80)));
            young.consumer.commitSync();
            old.consumer.commitSync();
            young.close();
            settle(List.of(old), topic, 4, 4);
            eventually("classic again", () -> describe(group).type() == GroupType.CLASSIC);
            same("taken away without a word", old.lost, 0);
            same("committed", committed(group), positions(topic, 4, 20));
        }
    }

    private static void regex() throws Exception {
        String prefix = "regex-" + run;
        topic("regex", 2);
        Map<String, Object> settings = consumerSettings("regex-" + run, "consumer");
        settings.put("metadata.max.age.ms", "1000");
        try (KafkaConsumer<String, String> consumer = new KafkaConsumer<>(settings)) {
            consumer.subscribe(new org.apache.kafka.clients.consumer.SubscriptionPattern("regex-.*" + run + ".*"));
            BooleanSupplier two = () -> { consumer.poll(SOON); return consumer.assignment().size() == 2; };
            eventually("the topic that there is", two::getAsBoolean);
            create(prefix + "-later", 3);
            eventually("the new topic too", () -> { consumer.poll(SOON); return consumer.assignment().size() == 5; });
        }
    }

    // --- transactions ------------------------------------------------------------------------------------------

    private static void commitAndAbort() throws Exception {
        String topic = topic("txn", 2);
        try (KafkaProducer<String, String> producer = transactional("txn-" + run, 60_000)) {
            for (int i = 0; i < 6; i++) {
                producer.beginTransaction();
                send(producer, topic, 2, 100 * i, 100 * i + 100);
                producer.flush();
                if (i % 2 == 0) {
                    producer.commitTransaction();
                } else {
                    producer.abortTransaction();
                }
            }
        }
        Set<String> committed = numbers(0, 100);
        committed.addAll(numbers(200, 300));
        committed.addAll(numbers(400, 500));
        for (int partition = 0; partition < 2; partition++) {
            int of = partition;
            List<String> read = readAll(topic, partition, "read_committed");
            same("committed, in order", read, inOrder(committed).stream().filter(n -> Integer.parseInt(n) % 2 == of).toList());
            same("all that was written", readAll(topic, partition, "read_uncommitted").size(), 300);
        }
    }

    private static void openTransaction() throws Exception {
        String topic = topic("open", 1);
        TopicPartition partition = new TopicPartition(topic, 0);
        try (KafkaProducer<String, String> open = transactional("open-" + run, 60_000);
                KafkaProducer<String, String> other = new KafkaProducer<>(common())) {
            open.beginTransaction();
            send(open, topic, 1, 0, 10);
            open.flush();
            send(other, topic, 1, 10, 20);
            other.flush();
            same("last stable offset", endOffset(partition, "read_committed"), 0L);
            same("high watermark", endOffset(partition, "read_uncommitted"), 20L);
            same("nothing yet", readAll(topic, 0, "read_committed"), List.of());
            same("listed", admin.listTransactions().all().get().stream().filter(t -> t.transactionalId().equals("open-" + run)).count(), 1L);
            open.commitTransaction();
            same("all of it", readAll(topic, 0, "read_committed"), List.copyOf(inOrder(numbers(0, 20))));
        }
    }

    private static void fencing() throws Exception {
        String topic = topic("fence", 1);
        KafkaProducer<String, String> first = transactional("fence-" + run, 60_000);
        first.beginTransaction();
        send(first, topic, 1, 0, 10);
        first.flush();
        try (KafkaProducer<String, String> second = transactional("fence-" + run, 60_000)) {
            fails("the first is fenced", first::commitTransaction, ProducerFencedException.class, InvalidProducerEpochException.class);
            second.beginTransaction();
            send(second, topic, 1, 10, 20);
            second.commitTransaction();
        }
        first.close(Duration.ZERO);
        same("only the second's", readAll(topic, 0, "read_committed"), List.copyOf(inOrder(numbers(10, 20))));
    }

    private static void offsetsInTransaction(String protocol) throws Exception {
        String from = topic("from-" + protocol, 1);
        String to = topic("to-" + protocol, 1);
        String group = "eos-" + protocol + "-" + run;
        produce(from, 1, 0, 30);
        try (KafkaProducer<String, String> producer = transactional("eos-" + protocol + "-" + run, 60_000);
                Member member = new Member(consumerSettings(group, protocol), from)) {
            until("the input", List.of(member), () -> member.read.size() >= 30);
            Map<TopicPartition, OffsetAndMetadata> ten = Map.of(new TopicPartition(from, 0), new OffsetAndMetadata(10, "ten"));
            producer.beginTransaction();
            send(producer, to, 1, 0, 10);
            producer.sendOffsetsToTransaction(ten, member.consumer.groupMetadata());
            producer.abortTransaction();
            same("aborted", committed(group), Map.of());
            producer.beginTransaction();
            send(producer, to, 1, 0, 10);
            producer.sendOffsetsToTransaction(ten, member.consumer.groupMetadata());
            producer.commitTransaction();
            same("committed", committed(group), Map.of(new TopicPartition(from, 0), 10L));
            // of a member that is not there any more nothing is taken
            producer.beginTransaction();
            send(producer, to, 1, 10, 20);
            var stale = new org.apache.kafka.clients.consumer.ConsumerGroupMetadata(group, 99, "stranger", Optional.empty());
            fails("a stranger's offsets", () -> {
                producer.sendOffsetsToTransaction(Map.of(new TopicPartition(from, 0), new OffsetAndMetadata(20)), stale);
                producer.commitTransaction();
            }, org.apache.kafka.clients.consumer.CommitFailedException.class, org.apache.kafka.common.KafkaException.class);
            producer.abortTransaction();
            same("offsets as they were", committed(group), Map.of(new TopicPartition(from, 0), 10L));
        }
        same("output", readAll(to, 0, "read_committed"), List.copyOf(inOrder(numbers(0, 10))));
    }

    private static void timeout() throws Exception {
        String topic = topic("timeout", 1);
        KafkaProducer<String, String> producer = transactional("timeout-" + run, 2_000);
        producer.beginTransaction();
        send(producer, topic, 1, 0, 10);
        producer.flush();
        TopicPartition partition = new TopicPartition(topic, 0);
        eventually("it is aborted", () -> endOffset(partition, "read_committed") == 11);
        same("nothing of it", readAll(topic, 0, "read_committed"), List.of());
        // a producer that was too slow may go on
        producer.abortTransaction();
        producer.beginTransaction();
        send(producer, topic, 1, 10, 20);
        producer.commitTransaction();
        producer.close();
        same("the next one", readAll(topic, 0, "read_committed"), List.copyOf(inOrder(numbers(10, 20))));
    }

    // --- what admin consoles ask (AKHQ, Kafbat UI, Redpanda Console and the like) -------------------------------

    private static void consoleCluster() throws Exception {
        var cluster = admin.describeCluster(new org.apache.kafka.clients.admin.DescribeClusterOptions().includeAuthorizedOperations(true));
        int broker = cluster.nodes().get().iterator().next().id();
        same("controller", cluster.controller().get().id(), broker);
        same("id", cluster.clusterId().get().length(), 22);
        String topic = topic("logdirs", 2);
        produce(topic, 2, 0, 100);
        var directories = admin.describeLogDirs(List.of(broker)).allDescriptions().get().get(broker);
        var replicas = directories.values().iterator().next().replicaInfos();
        holds("sizes", replicas.get(new TopicPartition(topic, 1)).size() > 0);
        Config config = configOf(ConfigResource.Type.BROKER, String.valueOf(broker));
        same("broker config", config.get("num.partitions").value().isEmpty(), false);
        holds("advertised.listeners", config.get("advertised.listeners").value().contains(bootstrap.split(":")[1]));
        admin.describeMetadataQuorum().quorumInfo().get();
    }

    private static void consoleTopics() throws Exception {
        String topic = topic("console", 2);
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        holds("listed", admin.listTopics().names().get().contains(topic));
        admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(4))).all().get();
        TopicDescription described = admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic);
        same("partitions", described.partitions().size(), 4);
        holds("leaders", described.partitions().stream().allMatch(p -> p.leader() != null && p.isr().size() == 1));
        same("by id", admin.describeTopics(org.apache.kafka.common.TopicCollection.ofTopicIds(List.of(described.topicId())))
                .allTopicIds().get().get(described.topicId()).name(), topic);
        admin.incrementalAlterConfigs(Map.of(resource, List.of(
                new AlterConfigOp(new ConfigEntry("retention.ms", "3600000"), AlterConfigOp.OpType.SET),
                new AlterConfigOp(new ConfigEntry("cleanup.policy", "compact"), AlterConfigOp.OpType.APPEND)))).all().get();
        Config config = configOf(ConfigResource.Type.TOPIC, topic);
        same("set", config.get("retention.ms").value(), "3600000");
        same("source", config.get("retention.ms").source(), ConfigEntry.ConfigSource.DYNAMIC_TOPIC_CONFIG);
        same("appended", config.get("cleanup.policy").value(), "delete,compact");
        same("default", config.get("segment.bytes").source(), ConfigEntry.ConfigSource.DEFAULT_CONFIG);
        admin.incrementalAlterConfigs(Map.of(resource, List.of(
                new AlterConfigOp(new ConfigEntry("retention.ms", ""), AlterConfigOp.OpType.DELETE)))).all().get();
        same("as before", configOf(ConfigResource.Type.TOPIC, topic).get("retention.ms").value(), "604800000");
        admin.listPartitionReassignments().reassignments().get();
        admin.deleteTopics(List.of(topic)).all().get();
        eventually("deleted", () -> !admin.listTopics().names().get().contains(topic));
    }

    private static void consoleMessages() throws Exception {
        String topic = topic("messages", 2);
        TopicPartition partition = new TopicPartition(topic, 1);
        try (KafkaProducer<String, String> producer = new KafkaProducer<>(common())) {
            for (int i = 0; i < 100; i++) {
                producer.send(new ProducerRecord<>(topic, 1, 1_000_000L + i, "k" + i, "v" + i));
            }
        }
        same("earliest", admin.listOffsets(Map.of(partition, OffsetSpec.earliest())).all().get().get(partition).offset(), 0L);
        same("by time", admin.listOffsets(Map.of(partition, OffsetSpec.forTimestamp(1_000_042L))).all().get().get(partition).offset(), 42L);
        same("newest time", admin.listOffsets(Map.of(partition, OffsetSpec.maxTimestamp())).all().get().get(partition).timestamp(), 1_000_099L);
        admin.deleteRecords(Map.of(partition, RecordsToDelete.beforeOffset(10))).all().get();
        try (KafkaConsumer<String, String> consumer = new KafkaConsumer<>(consumerSettings(null, "classic"))) {
            same("beginning", consumer.beginningOffsets(List.of(partition)).get(partition), 10L);
            same("end", consumer.endOffsets(List.of(partition)).get(partition), 100L);
            consumer.assign(List.of(partition));
            consumer.seek(partition, consumer.offsetsForTimes(Map.of(partition, 1_000_050L)).get(partition).offset());
            ConsumerRecord<String, String> record = null;
            for (long end = deadline(); record == null && System.currentTimeMillis() < end; ) {
                var records = consumer.poll(SOON).records(partition);
                record = records.isEmpty() ? null : records.get(0);
            }
            same("key", record.key(), "k50");
            same("value", record.value(), "v50");
        }
    }

    private static void consoleGroups() throws Exception {
        String topic = topic("lag", 1);
        String group = "lag-" + run;
        TopicPartition partition = new TopicPartition(topic, 0);
        produce(topic, 1, 0, 50);
        try (Member member = new Member(consumerSettings(group, "classic"), topic)) {
            until("all is read", List.of(member), () -> member.read.size() >= 50);
            member.consumer.commitSync(Map.of(partition, new OffsetAndMetadata(30, "note")));
            var listing = listed(new ListGroupsOptions().inGroupStates(Set.of(GroupState.STABLE)).withTypes(Set.of(GroupType.CLASSIC)));
            same("listed as stable", listing.stream().filter(l -> l.groupId().equals(group)).count(), 1L);
            listing = listed(new ListGroupsOptions().inGroupStates(Set.of(GroupState.EMPTY)));
            same("not as empty", listing.stream().filter(l -> l.groupId().equals(group)).count(), 0L);
            var member0 = describe(group).members().iterator().next();
            same("assignment", member0.assignment().topicPartitions(), Set.of(partition));
            long end = admin.listOffsets(Map.of(partition, OffsetSpec.latest())).all().get().get(partition).offset();
            same("lag", end - committed(group).get(partition), 20L);
            fails("a group with members is not deleted", () -> admin.deleteConsumerGroups(List.of(group)).all().get(), GroupNotEmptyException.class);
        }
        eventually("empty", () -> describe(group).groupState() == GroupState.EMPTY);
        admin.alterConsumerGroupOffsets(group, Map.of(partition, new OffsetAndMetadata(5))).all().get();
        same("set back", committed(group), Map.of(partition, 5L));
        admin.deleteConsumerGroupOffsets(group, Set.of(partition)).all().get();
        same("forgotten", committed(group), Map.of());
        admin.deleteConsumerGroups(List.of(group)).all().get();
    }

    private static void consoleRest() throws Exception {
        String topic = topic("rest", 1);
        TopicPartition partition = new TopicPartition(topic, 0);
        try (KafkaProducer<String, String> producer = transactional("rest-" + run, 60_000)) {
            producer.beginTransaction();
            send(producer, topic, 1, 0, 5);
            producer.flush();
            var active = admin.describeProducers(List.of(partition)).partitionResult(partition).get().activeProducers();
            same("producers", active.size(), 1);
            same("its last sequence", active.get(0).lastSequence(), 4);
            holds("its transaction", active.get(0).currentTransactionStartOffset().isPresent());
            var described = admin.describeTransactions(List.of("rest-" + run)).description("rest-" + run).get();
            same("transaction's partitions", described.topicPartitions(), Set.of(partition));
            same("state", described.state().toString(), "Ongoing");
            producer.commitTransaction();
        }
        var user = new org.apache.kafka.common.quota.ClientQuotaEntity(Map.of("client-id", "c-" + run));
        admin.alterClientQuotas(List.of(new org.apache.kafka.common.quota.ClientQuotaAlteration(user,
                List.of(new org.apache.kafka.common.quota.ClientQuotaAlteration.Op("producer_byte_rate", 1e9))))).all().get();
        var all = org.apache.kafka.common.quota.ClientQuotaFilter.all();
        eventually("the quota", () -> Map.of("producer_byte_rate", 1e9).equals(admin.describeClientQuotas(all).entities().get().get(user)));
        try {
            admin.describeAcls(org.apache.kafka.common.acl.AclBindingFilter.ANY).values().get();
        } catch (ExecutionException e) {
            holds("ACLs, or that there are none", e.getCause() instanceof SecurityDisabledException);
        }
        var features = admin.describeFeatures().featureMetadata().get().finalizedFeatures();
        holds("transaction.version", features.get("transaction.version").maxVersionLevel() >= 2);
        admin.describeUserScramCredentials().all().get();
    }

    // --- helpers -----------------------------------------------------------------------------------------------

    private static Map<String, Object> common() {
        Map<String, Object> settings = new LinkedHashMap<>();
        settings.put("bootstrap.servers", bootstrap);
        settings.put("key.serializer", StringSerializer.class);
        settings.put("value.serializer", StringSerializer.class);
        return settings;
    }

    private static KafkaProducer<String, String> transactional(String id, int timeoutMs) {
        Map<String, Object> settings = common();
        settings.put("transactional.id", id);
        settings.put("transaction.timeout.ms", timeoutMs);
        KafkaProducer<String, String> producer = new KafkaProducer<>(settings);
        producer.initTransactions();
        return producer;
    }

    private static Map<String, Object> consumerSettings(String group, String protocol) {
        Map<String, Object> settings = new LinkedHashMap<>();
        settings.put("bootstrap.servers", bootstrap);
        settings.put("key.deserializer", StringDeserializer.class);
        settings.put("value.deserializer", StringDeserializer.class);
        settings.put("enable.auto.commit", false);
        settings.put("auto.offset.reset", "earliest");
        settings.put("metadata.max.age.ms", "2000");
        if (group != null) {
            settings.put("group.id", group);
            settings.put("group.protocol", protocol);
            if (protocol.equals("classic")) {
                settings.put("heartbeat.interval.ms", 200);
                settings.put("partition.assignment.strategy", "org.apache.kafka.clients.consumer.CooperativeStickyAssignor");
            }
        }
        return settings;
    }

    private static String topic(String name, int partitions) throws Exception {
        return create(name + "-java-" + run, partitions);
    }

    private static String create(String topic, int partitions) throws Exception {
        admin.createTopics(List.of(new NewTopic(topic, partitions, (short) 1))).all().get();
        Map<TopicPartition, OffsetSpec> all = new TreeMap<>(java.util.Comparator.comparing(TopicPartition::partition));
        IntStream.range(0, partitions).forEach(p -> all.put(new TopicPartition(topic, p), OffsetSpec.latest()));
        // a broker may answer a little earlier than it leads
        eventually("there are leaders", () -> {
            try {
                return admin.listOffsets(all).all().get().size() == partitions;
            } catch (ExecutionException e) {
                return false;
            }
        });
        return topic;
    }

    /** Records whose values are the numbers, round the partitions. */
    private static void produce(String topic, int partitions, int from, int to) {
        try (KafkaProducer<String, String> producer = new KafkaProducer<>(common())) {
            send(producer, topic, partitions, from, to);
        }
    }

    private static void send(KafkaProducer<String, String> producer, String topic, int partitions, int from, int to) {
        for (int i = from; i < to; i++) {
            producer.send(new ProducerRecord<>(topic, i % partitions, null, String.valueOf(i)));
        }
    }

    /** All records of the partition up to its end at that isolation. */
    private static List<String> readAll(String topic, int number, String isolation) {
        Map<String, Object> settings = consumerSettings(null, "classic");
        settings.put("isolation.level", isolation);
        TopicPartition partition = new TopicPartition(topic, number);
        List<String> read = new ArrayList<>();
        try (KafkaConsumer<String, String> consumer = new KafkaConsumer<>(settings)) {
            consumer.assign(List.of(partition));
            consumer.seekToBeginning(List.of(partition));
            long end = consumer.endOffsets(List.of(partition)).get(partition);
            for (long until = deadline(); consumer.position(partition) < end; ) {
                holds("the end is reached", System.currentTimeMillis() < until);
                consumer.poll(SOON).forEach(record -> read.add(record.value()));
            }
        }
        return read;
    }

    private static long endOffset(TopicPartition partition, String isolation) {
        Map<String, Object> settings = consumerSettings(null, "classic");
        settings.put("isolation.level", isolation);
        try (KafkaConsumer<String, String> consumer = new KafkaConsumer<>(settings)) {
            return consumer.endOffsets(List.of(partition)).get(partition);
        }
    }

    private static Config configOf(ConfigResource.Type type, String name) throws Exception {
        ConfigResource resource = new ConfigResource(type, name);
        return admin.describeConfigs(List.of(resource)).all().get().get(resource);
    }

    private static ConsumerGroupDescription describe(String group) throws Exception {
        return admin.describeConsumerGroups(List.of(group)).all().get().get(group);
    }

    private static Collection<GroupListing> listed(ListGroupsOptions options) throws Exception {
        return admin.listGroups(options).all().get();
    }

    private static Map<TopicPartition, Long> committed(String group) throws Exception {
        var offsets = admin.listConsumerGroupOffsets(Map.of(group, new ListConsumerGroupOffsetsSpec())).all().get().get(group);
        return offsets.entrySet().stream().collect(Collectors.toMap(Map.Entry::getKey, entry -> entry.getValue().offset()));
    }

    private static Map<TopicPartition, Long> positions(String topic, int partitions, long offset) {
        return IntStream.range(0, partitions).boxed().collect(Collectors.toMap(p -> new TopicPartition(topic, p), p -> offset));
    }

    /** Polls until each partition has one owner and no member has more than {@code most}. */
    private static void settle(List<Member> members, String topic, int partitions, int most) {
        until("each partition has one owner", members, () -> {
            List<TopicPartition> owned = members.stream().flatMap(member -> member.consumer.assignment().stream()).toList();
            return owned.size() == partitions && new HashSet<>(owned).size() == partitions
                    && members.stream().allMatch(member -> member.owns() <= most);
        });
    }

    private static void until(String what, List<Member> members, BooleanSupplier done) {
        for (long end = deadline(); !done.getAsBoolean(); ) {
            holds(what + " (" + members.stream().map(m -> m.owns() + " owned, " + m.read.size() + " read").toList() + ")", System.currentTimeMillis() < end);
            members.forEach(Member::poll);
        }
    }

    private interface Condition {
        boolean holds() throws Exception;
    }

    private static void eventually(String what, Condition condition) throws Exception {
        for (long end = deadline(); !condition.holds(); Thread.sleep(50)) {
            holds(what, System.currentTimeMillis() < end);
        }
    }

    private static long deadline() {
        return System.currentTimeMillis() + PATIENCE_MS;
    }

    private static Set<String> numbers(int from, int to) {
        return IntStream.range(from, to).mapToObj(String::valueOf).collect(Collectors.toCollection(TreeSet::new));
    }

    private static List<String> inOrder(Set<String> numbers) {
        return numbers.stream().sorted(java.util.Comparator.comparing(Integer::valueOf)).toList();
    }

    private static void same(String what, Object got, Object wanted) {
        if (!got.equals(wanted)) {
            String text = got + ", wanted " + wanted;
            throw new AssertionError(what + ": got " + text.substring(0, Math.min(text.length(), 600)));
        }
    }

    private static void holds(String what, boolean condition) {
        if (!condition) {
            throw new AssertionError("not so: " + what);
        }
    }

    private static void fails(String what, Check action, Class<?>... with) throws Exception {
        try {
            action.run();
        } catch (Exception e) {
            Throwable cause = e instanceof ExecutionException ? e.getCause() : e;
            if (Arrays.stream(with).anyMatch(kind -> kind.isInstance(cause))) {
                return;
            }
            throw e;
        }
        throw new AssertionError("it did not fail: " + what);
    }
}
