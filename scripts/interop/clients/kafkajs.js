// Classic groups and transactions through kafkajs. Prints "pass NAME" or "FAIL NAME: WHY" for each check, and "end".
'use strict'
const assert = require('node:assert/strict')
const { Kafka, logLevel } = require('kafkajs')

const [bootstrap, run] = process.argv.slice(2)
const kafka = new Kafka({ clientId: 'interop', brokers: [bootstrap], logLevel: logLevel.NOTHING })
const admin = kafka.admin()
const PATIENCE_MS = 60_000

const range = (from, to) => Array.from({ length: to - from }, (_, i) => from + i)
const byValue = (a, b) => a - b
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

async function until(what, done) {
  for (const end = Date.now() + PATIENCE_MS; !(await done()); await pause(50)) {
    assert.ok(Date.now() < end, `not so: ${what}`)
  }
}

async function create(name, partitions) {
  const topic = `${name}-js-${run}`
  await admin.createTopics({ topics: [{ topic, numPartitions: partitions, replicationFactor: 1 }] })
  // a broker may answer a little earlier than it leads
  const leads = () => admin.fetchTopicOffsets(topic).then((offsets) => offsets.length === partitions, () => false)
  await until('there are leaders', leads)
  return topic
}

const messages = (partitions, numbers) => numbers.map((n) => ({ value: String(n), partition: n % partitions }))

async function produce(topic, partitions, numbers) {
  const producer = kafka.producer()
  await producer.connect()
  await producer.send({ topic, acks: -1, messages: messages(partitions, numbers) })
  await producer.disconnect()
}

class Member {
  constructor(groupId) {
    this.read = []
    this.owned = []
    this.consumer = kafka.consumer({ groupId, heartbeatInterval: 200, maxWaitTimeInMs: 100 })
    this.consumer.on(this.consumer.events.GROUP_JOIN, ({ payload }) => {
      this.owned = Object.values(payload.memberAssignment).flat()
    })
  }

  async start(topic) {
    await this.consumer.connect()
    await this.consumer.subscribe({ topic, fromBeginning: true })
    // offsets are committed after each batch
    await this.consumer.run({
      eachBatchAutoResolve: true,
      eachBatch: async ({ batch }) => {
        this.read.push(...batch.messages.map((message) => Number(message.value)))
      }
    })
    return this
  }
}

const isSharedOut = (partitions, members) =>
  members.flatMap((member) => member.owned).sort(byValue).join() === range(0, partitions).join() &&
  members.every((member) => member.owned.length <= Math.ceil(partitions / members.length))

async function committed(groupId, topic) {
  const [{ partitions }] = await admin.fetchOffsets({ groupId, topics: [topic] })
  return partitions.sort((a, b) => a.partition - b.partition).map(({ offset }) => Number(offset))
}

async function group() {
  const topic = await create('group', 4)
  const groupId = `js-${run}`
  const members = [await new Member(groupId).start(topic), await new Member(groupId).start(topic)]
  await until('two share four partitions', () => isSharedOut(4, members))
  await produce(topic, 4, range(0, 400))
  const read = () => members.flatMap((member) => member.read)
  await until('all is read', () => read().length >= 400)
  const left = members.pop()
  await left.consumer.disconnect()
  const first = [...read(), ...left.read]
  assert.deepEqual(first.sort(byValue), range(0, 400), 'each record once')
  await until('one takes over', () => isSharedOut(4, members))
  members[0].read = []
  await produce(topic, 4, range(400, 800))
  await until('the rest is read', () => read().length >= 400)
  assert.deepEqual(read().sort(byValue), range(400, 800), 'only the rest')
  const { groups } = await admin.describeGroups([groupId])
  assert.deepEqual([groups[0].state, groups[0].members.length], ['Stable', 1])
  await members[0].consumer.disconnect()
  assert.deepEqual(await committed(groupId, topic), [200, 200, 200, 200], 'committed')
  await admin.deleteGroups([groupId])
}

async function transactional(name) {
  const producer = kafka.producer({ transactionalId: `${name}-js-${run}`, maxInFlightRequests: 1, idempotent: true })
  await producer.connect()
  return producer
}

// kafkajs reads only committed records, unless it is told otherwise
async function readAll(topic, groupId, readUncommitted, count) {
  const consumer = kafka.consumer({ groupId, readUncommitted, maxWaitTimeInMs: 100 })
  const read = []
  await consumer.connect()
  await consumer.subscribe({ topic, fromBeginning: true })
  await consumer.run({ eachMessage: async ({ message }) => read.push(Number(message.value)) })
  await until(`${count} records of ${topic}`, () => read.length >= count)
  await pause(500) // for more than there should be
  await consumer.disconnect()
  return read
}

async function commitAndAbort() {
  const topic = await create('txn', 1)
  const producer = await transactional('txn')
  for (let i = 0; i < 6; i++) {
    const transaction = await producer.transaction()
    await transaction.send({ topic, messages: messages(1, range(100 * i, 100 * i + 100)) })
    await (i % 2 ? transaction.abort() : transaction.commit())
  }
  await producer.disconnect()
  const wanted = [...range(0, 100), ...range(200, 300), ...range(400, 500)]
  assert.deepEqual(await readAll(topic, `a-js-${run}`, false, 300), wanted, 'committed, in order')
  assert.deepEqual(await readAll(topic, `b-js-${run}`, true, 600), range(0, 600), 'all')
}

async function fencing() {
  const topic = await create('fence', 1)
  const first = await transactional('fence')
  const lost = await first.transaction()
  await lost.send({ topic, messages: messages(1, range(0, 10)) })
  const second = await transactional('fence')
  const transaction = await second.transaction()
  await assert.rejects(lost.commit(), /fenc|epoch/i, 'the first is fenced')
  await transaction.send({ topic, messages: messages(1, range(10, 20)) })
  await transaction.commit()
  await first.disconnect()
  await second.disconnect()
  assert.deepEqual(await readAll(topic, `c-js-${run}`, false, 10), range(10, 20), "only the second's")
}

async function offsetsInTransaction() {
  const topic = await create('from', 1)
  const to = await create('to', 1)
  const groupId = `eos-js-${run}`
  await produce(topic, 1, range(0, 30))
  const producer = await transactional('eos')
  const copy = async (from, end) => {
    const transaction = await producer.transaction()
    await transaction.send({ topic: to, messages: messages(1, range(from, end)) })
    const topics = [{ topic, partitions: [{ partition: 0, offset: String(end) }] }]
    await transaction.sendOffsets({ consumerGroupId: groupId, topics })
    return transaction
  }
  await (await copy(0, 10)).abort()
  assert.deepEqual(await committed(groupId, topic), [-1], 'aborted')
  await (await copy(0, 10)).commit()
  assert.deepEqual(await committed(groupId, topic), [10], 'committed')
  await (await copy(10, 20)).commit()
  assert.deepEqual(await committed(groupId, topic), [20], 'committed')
  await producer.disconnect()
  assert.deepEqual(await readAll(to, `d-js-${run}`, false, 20), range(0, 20), 'output')
}

async function main() {
  await admin.connect()
  const checks = [
    ['group classic: shared out, taken over', group],
    ['transactions: commit, abort, read_committed', commitAndAbort],
    ['transactions: a fenced producer leaves nothing', fencing],
    ['transactions: offsets with the records', offsetsInTransaction]
  ]
  const only = new RegExp(process.env.INTEROP_ONLY || '')
  for (const [name, check] of checks.filter(([name]) => only.test(`kafkajs: ${name}`))) {
    try {
      await check()
      console.log(`pass ${name}`)
    } catch (error) {
      const at = (error.stack.match(/kafkajs\.js:\d+/g) || []).join(' ')
      console.log(`FAIL ${name}: ${String(error.message).replaceAll('\n', ' ').slice(0, 500)} ${at}`)
    }
  }
  console.log('end')
  process.exit(0)
}

main()
