"""The DataStax driver, unmodified, against a running cluster.

    pip install cassandra-driver
    python tests/clients/python_driver.py HOST PORT [REPLICATION_FACTOR]

Exits with 0 and says OK when everything was as it must be.
"""
import sys, uuid, datetime, decimal, time
from cassandra.cluster import Cluster, ExecutionProfile, EXEC_PROFILE_DEFAULT
from cassandra import ConsistencyLevel
from cassandra.policies import DCAwareRoundRobinPolicy, TokenAwarePolicy
from cassandra.query import SimpleStatement, BatchStatement, BatchType
import logging; logging.basicConfig(level=logging.ERROR)
hosts=sys.argv[1].split(','); port=int(sys.argv[2])
rf=int(sys.argv[3]) if len(sys.argv)>3 else 1
c=Cluster(hosts, port=port, execution_profiles={EXEC_PROFILE_DEFAULT: ExecutionProfile(consistency_level=ConsistencyLevel.QUORUM, load_balancing_policy=TokenAwarePolicy(DCAwareRoundRobinPolicy()))}, connect_timeout=20)
s=c.connect()
print("connected", c.protocol_version, [ (h.address,h.datacenter,h.is_up) for h in c.metadata.all_hosts()])
s.execute("DROP KEYSPACE IF EXISTS shop")
s.execute("CREATE KEYSPACE IF NOT EXISTS shop WITH replication = {'class':'SimpleStrategy','replication_factor':%d}"%rf)
s.set_keyspace('shop')
s.execute("CREATE TYPE addr (street text, zip int)")
s.execute("CREATE TABLE IF NOT EXISTS t (k int PRIMARY KEY, v text, l list<int>, m map<text,int>, st set<text>, a frozen<addr>, )")
s.execute("CREATE TABLE ev (day text, at timeuuid, n int, st int static, PRIMARY KEY (day, at)) WITH CLUSTERING ORDER BY (at DESC)")
s.execute("CREATE TABLE w (a int, b text, c int, d int, v text, PRIMARY KEY ((a,b),c,d))")
print(sorted(c.metadata.keyspaces['shop'].tables), list(c.metadata.keyspaces['shop'].user_types))

s.execute("INSERT INTO t (k,v,l,m,st,a) VALUES (1,'x',[1,2],{'a':1},{'q','b'},{street:'s',zip:3})")
r=list(s.execute("SELECT * FROM t WHERE k=1")); print(r)
assert r[0].v=='x' and r[0].l==[1,2] and r[0].m=={'a':1} and set(r[0].st)=={'q','b'} and r[0].a.zip==3
p=s.prepare("INSERT INTO w (a,b,c,d,v) VALUES (?,?,?,?,?)"); print(p.routing_key_indexes)
for a in range(3):
    for i in range(20):
        s.execute(p,(a,'b',i//5,i%5,'v%d'%i))
q=s.prepare("SELECT c,d,v FROM w WHERE a=? AND b=?")
assert len(list(s.execute(q,(1,'b'))))==20
q.fetch_size=7
rows=list(s.execute(q,(1,'b'))); assert [(x.c,x.d) for x in rows]==[(i//5,i%5) for i in range(20)], rows
assert [(x.c,x.d) for x in s.execute("SELECT c,d FROM w WHERE a=1 AND b='b' AND c>=1 AND c<3")]==[(i//5,i%5) for i in range(5,15)]
assert [(x.c,x.d) for x in s.execute("SELECT c,d FROM w WHERE a=1 AND b='b' AND (c,d)>(2,3)")]==[(i//5,i%5) for i in range(14,20)]
assert [(x.c,x.d) for x in s.execute("SELECT c,d FROM w WHERE a=1 AND b='b' ORDER BY c DESC, d DESC LIMIT 3")]==[(3,4),(3,3),(3,2)]
assert [(x.c,x.d) for x in s.execute("SELECT c,d FROM w WHERE a=1 AND b='b' AND c IN (0,3) AND d=2")]==[(0,2),(3,2)]
assert s.execute("SELECT count(*) FROM w").one()[0]==60
assert s.execute("SELECT max(d), sum(c), avg(c) FROM w WHERE a=1 AND b='b'").one()==(4,30,1)
st=SimpleStatement("SELECT a,c,d FROM w",fetch_size=7); assert len(list(s.execute(st)))==60
tok=list(s.execute("SELECT DISTINCT a,b,token(a,b) FROM w")); assert len(tok)==3, tok
s.execute("DELETE FROM w WHERE a=1 AND b='b' AND c=1")
assert s.execute("SELECT count(*) FROM w WHERE a=1 AND b='b'").one()[0]==15
s.execute("DELETE FROM w WHERE a=1 AND b='b' AND c=2 AND d=2")
assert s.execute("SELECT count(*) FROM w WHERE a=1 AND b='b'").one()[0]==14
s.execute("DELETE FROM w WHERE a=2 AND b='b'")
assert s.execute("SELECT count(*) FROM w").one()[0]==34
s.execute("UPDATE t SET l = l + [9], m['z']=26, st = st - {'q'} WHERE k=1")
s.execute("UPDATE t SET l = [0] + l WHERE k=1"); s.execute("UPDATE t SET l[1] = 77 WHERE k=1")
r=s.execute("SELECT l,m,st,a.zip,writetime(v),ttl(v) FROM t WHERE k=1").one(); print(r)
assert r[0]==[0,77,2,9] and r[1]=={'a':1,'z':26} and set(r[2])=={'b'} and r[3]==3 and r[5] is None
for i in range(5):
    s.execute("INSERT INTO ev (day,at,n,st) VALUES ('d',now(),%s,%s)",(i,i))
r=list(s.execute("SELECT n,st FROM ev WHERE day='d'")); assert [x.n for x in r]==[4,3,2,1,0] and r[0].st==4, r
s.execute("INSERT INTO ev (day,st) VALUES ('only',5)"); r=list(s.execute("SELECT * FROM ev WHERE day='only'")); assert len(r)==1 and r[0].st==5 and r[0].at is None, r
b=BatchStatement(); 
for i in range(10): b.add(p,(9,'b',i,0,'z'))
s.execute(b); assert s.execute("SELECT count(*) FROM w WHERE a=9 AND b='b'").one()[0]==10
s.execute("INSERT INTO t (k,v) VALUES (2,'gone') USING TTL 1"); assert s.execute("SELECT ttl(v) FROM t WHERE k=2").one()[0]==1
time.sleep(1.3); assert s.execute("SELECT * FROM t WHERE k=2").one() is None
for bad in ["SELEC","SELECT * FROM nope","SELECT nope FROM t","INSERT INTO t (v) VALUES ('a')","SELECT * FROM t WHERE v='x'","CREATE TABLE t (k int PRIMARY KEY)","INSERT INTO t (k) VALUES ('a')","CREATE INDEX ON t (v)"]:
    try: s.execute(bad); print("NO ERROR", bad); sys.exit(1)
    except Exception as e: print(type(e).__name__, str(e)[:110])
sel=s.prepare("SELECT * FROM t WHERE k=?"); s.execute(sel,(1,)); s.execute("ALTER TABLE t ADD extra int"); print(s.execute(sel,(1,)).one())
s.execute("TRUNCATE t"); assert not list(s.execute("SELECT * FROM t"))
types="ascii bigint blob boolean date decimal double duration float inet int smallint text time timestamp timeuuid tinyint uuid varint".split()
s.execute("CREATE TABLE ty (k int PRIMARY KEY, %s)"%", ".join("c_%s %s"%(x,x) for x in types))
from cassandra.util import Date, Time, Duration
vals=dict(ascii='a',bigint=-2**60,blob=b'\0\xff',boolean=True,date=Date('2024-02-29'),decimal=decimal.Decimal('-12.50'),double=1.5,duration=Duration(1,2,3),float=0.5,inet='::1',int=-5,smallint=-300,text='é',time=Time('01:02:03.000000004'),timestamp=datetime.datetime(2024,2,29,1,2,3,4000),timeuuid=uuid.uuid1(),tinyint=-3,uuid=uuid.uuid4(),varint=-2**100)
pi=s.prepare("INSERT INTO ty (k,%s) VALUES (1,%s)"%(",".join("c_"+x for x in types),",".join("?"*len(types))))
s.execute(pi,[vals[x] for x in types]); r=s.execute("SELECT * FROM ty WHERE k=1").one()
for x in types: assert getattr(r,"c_"+x)==vals[x],(x,getattr(r,"c_"+x),vals[x])
n=2000; fs=[]; pw=s.prepare("INSERT INTO t (k,v) VALUES (?,?)"); t0=time.time()
for i in range(n):
    fs.append(s.execute_async(pw,(i,'v%d'%i)))
    if len(fs)>=200:
        for f in fs: f.result()
        fs=[]
for f in fs: f.result()
print("inserts/s", n/(time.time()-t0))
assert sum(1 for _ in s.execute(SimpleStatement("SELECT k FROM t",fetch_size=100)))==n
print("replicas", [str(h.address) for h in c.metadata.get_replicas('shop', (5).to_bytes(4,'big'))])
print("OK"); c.shutdown()
