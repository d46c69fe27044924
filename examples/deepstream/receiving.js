// The numbers of a receiver: what is due, what is missing, what to ask for, and what came twice.
'use strict'

const { randomBytes } = require('node:crypto')
const { KIND } = require('./wire')

const JITTER = 5
const HELD_BYTES = 4 * 1024 * 1024 // what came after gaps is held up to here; the rest is asked for later
const TRIES = 8 // so many questions may a sender that is heard leave without an answer
const VAIN = 16 // so many answers in a row may bring nothing
const ASKED = 64 // so many questions about one gap are remembered
const SENDERS = 10000 // so many senders of a topic are known; of one more, messages are delivered, and nothing is noted
const SILENCE = 600000 // a sender that is silent for so long makes room for another

// What one sender sends on one topic. While something is missing, `held` has what came after it.
class Stream {
  constructor (topic, sender, due) {
    this.topic = topic
    this.sender = sender
    this.due = due // the number of the next message; null until it is known where the messages begin for us
    this.last = null // the number of the last frame that was delivered
    this.answers = false
    this.heardAt = 0
    this.checkedAt = -Infinity
    this.isChecked = false // its numbers contradict what we know, so it is asked, and all it sends is held meanwhile
    this.until = 0 // all that is missing has lower numbers
    this.held = []
    this.asked = new Map() // by the id of a question: when it was asked, and what was due then
    this.askAt = Infinity
  }

  get firstHeld () {
    return this.held.length ? this.held[0].number : Infinity
  }

  get isWhole () {
    return this.due !== null && !this.isChecked && this.due >= this.until && !this.held.length
  }
}

// Times are milliseconds. Messages go to `deliver(topic, messages)`, losses to `report(topic, sender, count)`, and
// frames with numbers that their sender has not given to `reject(topic, sender)`.
class Receiver {
  constructor ({ heartbeat, patience, deliver, report, reject }) {
    this.quarter = heartbeat / 4
    this.heartbeat = heartbeat
    this.patience = patience // a sender that is not heard for so long is given up
    this.deliver = deliver
    this.report = report
    this.reject = reject
    this.topics = new Map()
    this.gaps = new Set() // the streams of which something is missing
    this.heldBytes = 0
    this.duplicates = 0
  }

  listen (topic, now) {
    this.topics.set(topic, { name: topic, since: now, streams: new Map() })
  }

  // Takes a frame with messages.
  take (topic, frame, messages, now) {
    const known = this.topics.get(topic)
    if (!known) return
    const isAgain = frame.kind === KIND.AGAIN
    let stream = known.streams.get(frame.sender)
    if (!stream) {
      if (isAgain) return
      const hasMissed = frame.answers && frame.number > frame.base
      stream = this.remember(known, frame.sender, hasMissed ? null : frame.number, now)
      if (!stream) {
        this.deliver(topic, messages)
        return
      }
    }
    this.hear(stream, frame.answers, now)
    if (!stream.answers) stream.due = Math.max(stream.due, frame.base)
    const end = frame.number + frame.count
    const isOld = stream.due !== null && end <= stream.due
    if (isAgain && (stream.due === null || isOld || (frame.number > stream.due && stream.isWhole))) return
    if (isOld && !stream.isChecked && (frame.number === stream.last || !this.check(stream, now))) {
      this.duplicates += frame.count
      return
    }
    this.hold(stream, { number: frame.number, end, messages, bytes: frame.body.length, at: now })
    this.goOn(stream, 0, now)
  }

  // Takes what a sender tells of its numbers.
  told (sender, answers, counts, now) {
    for (const { topic, base, number, given, quiet } of counts) {
      const known = this.topics.get(topic)
      if (!known || given === base) continue
      let stream = known.streams.get(sender)
      if (!stream) {
        const isOld = number === given && now - quiet < known.since
        stream = isOld || answers ? this.remember(known, sender, isOld ? given : null, now) : null
        if (!stream) continue
      }
      this.hear(stream, answers, now)
      if (!stream.answers) stream.due = Math.max(stream.due, base)
      if (stream.due === null || number > stream.due) stream.until = Math.max(stream.until, number)
      else if (given < stream.due) this.check(stream, now)
      this.goOn(stream, 0, now)
    }
  }

  // Takes a sender's answer to questions, ours or others'.
  answered (topic, frame, { replies, reached, goesOn }, now) {
    const stream = this.topics.get(topic)?.streams.get(frame.sender)
    if (!stream || !this.gaps.has(stream)) return
    this.hear(stream, true, now)
    const due = stream.due
    const ours = replies.filter(({ id }) => stream.asked.has(id))
    for (const { id, start, kept } of ours) {
      const asked = stream.asked.get(id)
      this.dropForged(stream, frame.number, reached, asked.at)
      const isWrong = stream.isChecked && frame.number < asked.due
      if (isWrong) stream.due = Math.min(frame.number, stream.firstHeld)
      stream.due = Math.max(stream.due ?? Math.min(start, stream.firstHeld), frame.base)
      stream.isChecked = false
      this.goOn(stream, !isWrong && start <= stream.due ? kept : 0, now)
      if (!this.gaps.has(stream)) return
    }
    if (stream.due === null || stream.isChecked) return
    if (ours.length) {
      stream.tries = 0
      stream.since = now
      stream.vain = stream.due === due ? stream.vain + 1 : 0
    }
    stream.askAt = now + (goesOn || stream.vain > 1 ? this.quarter : Math.random() * JITTER)
  }

  // Asks anew, of one sender or of all, on a new connection.
  askAgain (now, sender = null) {
    for (const stream of this.gaps) {
      if (sender === null || stream.sender === sender) this.askSoon(stream, now)
    }
  }

  // Notes that a sender answers no more questions; its last answers may still be on their way.
  left (sender, now) {
    for (const stream of this.gaps) {
      if (stream.sender === sender) stream.leftAt = stream.askAt = now + this.heartbeat / 2
    }
  }

  get nextDue () {
    let next = Infinity
    for (const { askAt } of this.gaps) next = Math.min(next, askAt)
    return next
  }

  // Returns the questions that are to be asked now; gives up what nobody will send again.
  due (now) {
    const questions = []
    for (const stream of [...this.gaps].filter(stream => stream.askAt <= now)) {
      const isVain = stream.tries >= TRIES || stream.vain >= VAIN || now - stream.since > this.patience
      if (isVain || now >= stream.leftAt) {
        this.giveUp(stream, now)
        continue
      }
      stream.tries += stream.heard
      stream.heard = false
      stream.askAt = now + this.quarter
      const id = randomBytes(8).readBigUInt64BE()
      stream.asked.set(id, { at: now, due: stream.due })
      if (stream.asked.size > ASKED) stream.asked.delete(stream.asked.keys().next().value)
      const age = stream.due === null ? Math.round((now - stream.topic.since) * 1000) : null
      questions.push({ target: stream.sender, topic: stream.topic.name, first: stream.due ?? 0, age, id })
    }
    return questions
  }

  // Returns the stream of a sender that was not known, or null if there is no room for it.
  remember (known, sender, due, now) {
    if (known.streams.size >= SENDERS) {
      for (const stream of known.streams.values()) {
        if (now - stream.heardAt > SILENCE && !this.gaps.has(stream)) known.streams.delete(stream.sender)
      }
      if (known.streams.size >= SENDERS) return null
      known.since = now // if one of them comes back, it must not send again what was delivered
    }
    const stream = new Stream(known, sender, due)
    known.streams.set(sender, stream)
    return stream
  }

  hear (stream, answers, now) {
    stream.answers ||= answers
    stream.heard = true
    stream.heardAt = now
  }

  // Has a sender asked, now and then, that seems to be behind its own numbers: those may have been forged.
  check (stream, now) {
    if (!stream.answers || this.gaps.has(stream) || now - stream.checkedAt < this.heartbeat) return false
    stream.checkedAt = now
    stream.isChecked = true
    return true
  }

  hold (stream, frame) {
    stream.until = Math.max(stream.until, frame.end)
    const index = stream.held.findLastIndex(({ number }) => number < frame.number) + 1
    const same = stream.held[index]
    const isDue = stream.due !== null && frame.number <= stream.due
    if (same?.number === frame.number && same.end >= frame.end) return
    if (!isDue && this.heldBytes + frame.bytes > HELD_BYTES) return
    stream.held.splice(index, 0, frame)
    this.heldBytes += frame.bytes
  }

  // Drops what came before the question, with numbers that its sender had not given when it answered.
  dropForged (stream, given, reached, askedAt) {
    while (stream.held.length && stream.held.at(-1).number >= given && stream.held.at(-1).at < askedAt) {
      this.heldBytes -= stream.held.pop().bytes
      this.reject(stream.topic.name, stream.sender)
    }
    stream.until = stream.held.reduce((until, { end }) => Math.max(until, end), reached)
  }

  // Delivers what is due; what is missing below number `kept` is lost. Asks for the rest, if its sender answers.
  goOn (stream, kept, now) {
    const before = stream.due
    while (stream.due !== null && !stream.isChecked) {
      const first = stream.firstHeld
      if (first <= stream.due) {
        const frame = stream.held.shift()
        this.heldBytes -= frame.bytes
        if (frame.end > stream.due) {
          const messages = frame.messages.slice(stream.due - frame.number)
          stream.due = frame.end
          stream.last = frame.number
          this.deliver(stream.topic.name, messages)
        }
      } else if (stream.due < kept) {
        const end = Math.min(kept, first)
        this.report(stream.topic.name, stream.sender, end - stream.due)
        stream.due = end
      } else {
        break
      }
    }
    if (stream.isWhole) {
      this.gaps.delete(stream)
      stream.asked.clear()
    } else if (!stream.answers) {
      this.giveUp(stream, now)
    } else if (!this.gaps.has(stream)) {
      this.gaps.add(stream)
      this.askSoon(stream, now)
    } else if (stream.due !== before) {
      Object.assign(stream, { tries: 0, vain: 0, since: now })
    }
  }

  askSoon (stream, now) {
    const askAt = now + Math.random() * JITTER
    Object.assign(stream, { tries: 0, vain: 0, since: now, leftAt: Infinity, heard: true, askAt })
  }

  // Counts as lost what is missing, and goes on with what is held.
  giveUp (stream, now) {
    if (stream.due === null && !stream.held.length) {
      this.gaps.delete(stream)
      stream.topic.streams.delete(stream.sender)
      return
    }
    stream.isChecked = false
    stream.due ??= stream.firstHeld
    this.goOn(stream, stream.until, now)
  }
}

module.exports = { Receiver }
