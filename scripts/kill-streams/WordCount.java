import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.TreeMap;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.LongDeserializer;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.Produced;

/**
 * Word count with Kafka Streams and exactly_once_v2, to be killed: its input, the application, and the judge.
 *
 * <p>The application has no cache, so that each word of the input is one record of the output: the count of that word
 * so far. The committed output of a word must be 1, 2, 3 and so on up to how often the input has it.
 */
public final class WordCount {
    private static final String APPLICATION = "word-count";
    private static final String LINES = "lines";
    private static final String COUNTS = "counts";
    private static final int PARTITIONS = 4;
    private static final int WORDS = 997;

    private WordCount() {}

    public static void main(String[] args) throws Exception {
        String bootstrap = args[1];
        switch (args[0]) {
            case "create" -> create(bootstrap);
            case "generate" -> generate(bootstrap, Integer.parseInt(args[2]), Integer.parseInt(args[3]));
            case "run" -> run(bootstrap, args[2]);
            case "judge" -> judge(bootstrap, Integer.parseInt(args[2]), Long.parseLong(args[3]));
            default -> throw new IllegalArgumentException(args[0]);
        }
    }

    /** A line of the input: one word, and in every fourth line two. */
    private static String line(int number) {
        String first = word(number * 2654435761L);
        return number % 4 == 0 ? first + " " + word(number * 40503L + 7) : first;
    }

    private static String word(long seed) {
        return "w" + Math.floorMod(seed ^ (seed >>> 15), (long) WORDS);
    }

    private static void create(String bootstrap) throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            NewTopic lines = new NewTopic(LINES, PARTITIONS, (short) 1);
            admin.createTopics(List.of(lines, new NewTopic(COUNTS, PARTITIONS, (short) 1))).all().get();
        }
    }

    /** Writes the input evenly over so many seconds, through all ends of the broker. */
    private static void generate(String bootstrap, int records, int seconds) throws Exception {
        Map<String, Object> settings = Map.of(
                "bootstrap.servers", bootstrap,
                "delivery.timeout.ms", Integer.MAX_VALUE,
                "max.block.ms", Long.MAX_VALUE,
                "linger.ms", 5);
        List<Exception> failures = new ArrayList<>();
        long began = System.nanoTime();
        var strings = new StringSerializer();
        try (KafkaProducer<String, String> producer = new KafkaProducer<>(settings, strings, strings)) {
            for (int i = 0; i < records; i++) {
                long due = began + TimeUnit.SECONDS.toNanos(seconds) / records * i;
                long early = TimeUnit.NANOSECONDS.toMillis(due - System.nanoTime());
                if (early > 5) {
                    Thread.sleep(early);
                }
                producer.send(new ProducerRecord<>(LINES, i % PARTITIONS, null, line(i)), (metadata, e) -> {
                    if (e != null) {
                        failures.add(e);
                    }
                });
            }
        }
        if (!failures.isEmpty()) {
            throw new IllegalStateException(failures.size() + " lines were not written", failures.get(0));
        }
    }

    private static void run(String bootstrap, String stateDir) {
        Properties settings = new Properties();
        settings.put("application.id", APPLICATION);
        settings.put("bootstrap.servers", bootstrap);
        settings.put("processing.guarantee", "exactly_once_v2");
        settings.put("state.dir", stateDir);
        settings.put("statestore.cache.max.bytes", 0);
        settings.put("num.stream.threads", 2);
        settings.put("commit.interval.ms", 100);
        // a killed instance comes back under its name, and need not be missed first
        settings.put("group.instance.id", "one");
        settings.put("session.timeout.ms", 10_000);
        StreamsBuilder builder = new StreamsBuilder();
        var strings = Serdes.String();
        KStream<String, String> lines = builder.stream(LINES);
        lines.flatMapValues(line -> Arrays.asList(line.split(" ")))
                .groupBy((key, word) -> word, Grouped.with(strings, strings))
                .count()
                .toStream()
                .to(COUNTS, Produced.with(strings, Serdes.Long()));
        settings.put("default.key.serde", strings.getClass());
        settings.put("default.value.serde", strings.getClass());
        KafkaStreams streams = new KafkaStreams(builder.build(), settings);
        streams.setStateListener((now, before) -> {
            System.out.println(now);
            if (now == KafkaStreams.State.ERROR) {
                Runtime.getRuntime().halt(3);
            }
        });
        Runtime.getRuntime().addShutdownHook(new Thread(streams::close));
        streams.start();
    }

    /** Waits until the application has read all of its input, and compares what it wrote. */
    private static void judge(String bootstrap, int records, long patienceSeconds) throws Exception {
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(patienceSeconds);
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            for (long lag = Long.MAX_VALUE; lag > 0; Thread.sleep(500)) {
                lag = lag(admin);
                if (System.nanoTime() > deadline) {
                    fail("the application is " + lag + " records behind");
                }
            }
            long input = ends(admin, LINES).values().stream().mapToLong(Long::longValue).sum();
            if (input != records) {
                fail(input + " lines are there, of " + records);
            }
        }
        Map<String, Long> wanted = new TreeMap<>();
        for (int i = 0; i < records; i++) {
            for (String word : line(i).split(" ")) {
                wanted.merge(word, 1L, Long::sum);
            }
        }
        compare(counted(bootstrap), wanted);
    }

    /** How far the application is behind in the lines and in the words that it groups. */
    private static long lag(Admin admin) throws Exception {
        var committed = admin.listConsumerGroupOffsets(APPLICATION).partitionsToOffsetAndMetadata().get();
        long lag = 0;
        String grouped = APPLICATION + "-KSTREAM-AGGREGATE-STATE-STORE-0000000003-repartition";
        for (String topic : List.of(LINES, grouped)) {
            for (Map.Entry<TopicPartition, Long> end : ends(admin, topic).entrySet()) {
                var position = committed.get(end.getKey());
                // transactions' markers stand behind the last word: they are not waited for
                long behind = end.getValue() - (position == null ? 0 : position.offset());
                lag += Math.max(0, topic.equals(LINES) ? behind : behind - 1);
            }
        }
        return lag;
    }

    private static Map<TopicPartition, Long> ends(Admin admin, String topic) throws Exception {
        Map<TopicPartition, OffsetSpec> asked = new HashMap<>();
        for (int partition = 0; partition < PARTITIONS; partition++) {
            asked.put(new TopicPartition(topic, partition), OffsetSpec.latest());
        }
        Map<TopicPartition, Long> ends = new HashMap<>();
        admin.listOffsets(asked).all().get().forEach((partition, end) -> ends.put(partition, end.offset()));
        return ends;
    }

    /** The committed output, each word's counts in order. */
    private static Map<String, List<Long>> counted(String bootstrap) {
        Map<String, Object> settings = Map.of("bootstrap.servers", bootstrap, "isolation.level", "read_committed");
        Map<String, List<Long>> counted = new TreeMap<>();
        try (KafkaConsumer<String, Long> consumer =
                new KafkaConsumer<>(settings, new StringDeserializer(), new LongDeserializer())) {
            List<TopicPartition> partitions = new ArrayList<>();
            for (int partition = 0; partition < PARTITIONS; partition++) {
                partitions.add(new TopicPartition(COUNTS, partition));
            }
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            Map<TopicPartition, Long> ends = consumer.endOffsets(partitions);
            while (partitions.stream().anyMatch(partition -> consumer.position(partition) < ends.get(partition))) {
                for (ConsumerRecord<String, Long> record : consumer.poll(Duration.ofMillis(200))) {
                    counted.computeIfAbsent(record.key(), word -> new ArrayList<>()).add(record.value());
                }
            }
        }
        return counted;
    }

    private static void compare(Map<String, List<Long>> counted, Map<String, Long> wanted) {
        if (!counted.keySet().equals(wanted.keySet())) {
            fail(counted.size() + " words were counted, of " + wanted.size());
        }
        long sum = 0;
        for (Map.Entry<String, Long> entry : wanted.entrySet()) {
            List<Long> counts = counted.get(entry.getKey());
            for (int i = 0; i < counts.size(); i++) {
                if (counts.get(i) != i + 1) {
                    fail(entry.getKey() + " is counted " + counts.get(i) + " where it is there for the " + (i + 1) + ". time");
                }
            }
            if (counts.size() != entry.getValue()) {
                fail(entry.getKey() + " is counted " + counts.size() + " times, and there " + entry.getValue() + " times");
            }
            sum += counts.size();
        }
        System.out.println("exact: " + sum + " words, " + wanted.size() + " different ones");
    }

    private static void fail(String why) {
        System.out.println("NOT EXACT: " + why);
        System.exit(1);
    }
}
